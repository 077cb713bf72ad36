"""The whole state of a database and of a simulator: kept, restored, and read in a comparable form."""

import itertools
import json
import re
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from tests.stripe_world.bench import Bench
from usage_tasks.storage.rows import execute, fetch

Rows = dict[str, list[str]]
_numbers = itertools.count(1)

_TABLES: Final = """
    SELECT c.relname AS name,
           string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE a.attgenerated = '') AS columns
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> 'alembic_version'
    GROUP BY c.relname ORDER BY c.relname
"""
_SEQUENCES: Final = """
    SELECT string_agg(format('SELECT setval(%L, %s, %L)', sequencename, coalesce(last_value, 1), last_value IS NOT NULL)
                      , '; ') AS script
    FROM pg_sequences WHERE schemaname = 'public'
"""
LEASED: Final = ("meter_report", "outbox", "payment_hold", "stripe_action", "stripe_event")
_PUT_OFF: Final = ("meter_report", "stripe_event")
_RUNS: Final = frozenset({"job_epoch", "job_run"})
"""The tables that keep jobs apart count runs, and a run that died counts too."""

_TRIES: Final = frozenset({"attempts", "claimed_until", "next_attempt_at", "outcome"})
"""When and how often it was tried, and an event's outcome: of two events for one fact only the first acts."""

_NOW: Final = "clock_timestamp()"
_SERIAL: Final = re.compile(r'"[a-z]+_id": \d+')
_RANDOM: Final = re.compile(r"_(?:[0-9a-f]{16,})|\b[0-9A-F]{8}\b")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?\+00:00")
_REAL: Final = timedelta(days=3)
"""A time closer to now than this comes from the machine's clock; billing time stands somewhere else."""


class Whole:
    """The state at its creation; `restore` puts it back, including rows that nobody may change or delete."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self._schema = kept = f"kept_{next(_numbers)}"
        self._tables = {row.name: row.columns for row in bench.rows(_TABLES)}
        script = [f"SET LOCAL session_replication_role = replica; {bench.rows(_SEQUENCES)[0].script}"]
        with bench.transaction() as connection:
            execute(connection, f"CREATE SCHEMA {kept}")
            for name, columns in self._tables.items():
                script.append(f"DELETE FROM {name}")  # noqa: S608 - catalog
                if not list(fetch(connection, f"SELECT 1 FROM {name} LIMIT 1")):  # noqa: S608 - catalog
                    continue
                execute(connection, f"CREATE TABLE {kept}.{name} AS SELECT {columns} FROM {name}")  # noqa: S608 - catalog
                into = f"INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE"
                script.append(f"{into} SELECT {columns} FROM {kept}.{name}")  # noqa: S608 - catalog
        self._script = "; ".join(script)
        self._simulator = sqlite3.connect(":memory:", check_same_thread=False)
        store = bench.world.server.simulator.store
        with store._lock:
            store._db.backup(self._simulator)

    def restore(self) -> None:
        with self.bench.transaction() as connection:
            execute(connection, self._script)
        store = self.bench.world.server.simulator.store
        with store._lock:
            self._simulator.backup(store._db)

    def close(self) -> None:
        self._simulator.close()
        self.bench.execute(f"DROP SCHEMA {self._schema} CASCADE")

    def __enter__(self) -> "Whole":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, *, leases: bool = False) -> Rows:
        """Read every row and every object, by table and type, without random values and times of the machine's clock.

        With `leases`, the attempts and the claims too.
        """
        without = "" if leases else f" - ARRAY{sorted(_TRIES)}"
        parts = [
            f"SELECT '{name}' AS name, to_jsonb(t){without} AS row FROM {name} t"  # noqa: S608 - catalog
            for name in self._tables
            if name not in _RUNS
        ]
        rows = [(row.name, row.row) for row in self.bench.rows(" UNION ALL ".join(parts))]
        found: Rows = {}
        for name, row in rows:
            found.setdefault(name, []).append(_masked(row))
        store = self.bench.world.server.simulator.store
        with store._lock, closing(store._db.cursor()) as cursor:
            objects = cursor.execute("SELECT type, body FROM object WHERE type <> 'event'").fetchall()
            objects += cursor.execute(
                "SELECT 'event', json_extract(body, '$.type') FROM object WHERE type = 'event'"
            ).fetchall()
            objects += cursor.execute(
                "SELECT 'meter_event', json_array(customer, timestamp, value) FROM meter_event"
            ).fetchall()
        for kind, body in objects:
            found.setdefault(f"stripe:{kind}", []).append(_masked(body))
        return {name: sorted(rows) for name, rows in found.items()}


def time_passes(bench: Bench) -> None:
    """Let every lease end, and every postponed row be due."""
    ends = [f"UPDATE {name} SET claimed_until = {_NOW} WHERE claimed_until > {_NOW}" for name in LEASED]  # noqa: S608 - named above
    due = f"next_attempt_at = {_NOW} WHERE state = 'pending' AND next_attempt_at > {_NOW}"
    bench.execute("; ".join([*ends, *(f"UPDATE {name} SET {due}" for name in _PUT_OFF)]))  # noqa: S608 - named above


def _masked(row: Any) -> str:
    told = row if isinstance(row, str) else json.dumps(row, sort_keys=True)
    return _TIME.sub(_without_now, _SERIAL.sub("serial", _RANDOM.sub("_*", told)))


def _without_now(found: re.Match[str]) -> str:
    near = abs(datetime.fromisoformat(found.group()) - datetime.now(tz=UTC)) < _REAL
    return "now" if near else found.group()
