"""The simulator's state: one SQLite file, one connection, one lock, one transaction at a time.

Stripe's objects are kept as JSON by (type, id); the columns beside it are what lists filter and order by. The
journal is a write-ahead log without fsync: what was committed survives the death of the process, though not of the
machine. The file is locked for as long as the process lives, so that no two simulators drive one state.
"""

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from usage_tasks.stripe_simulator.wire.wire import JsonObject

_SCHEMA = """
CREATE TABLE IF NOT EXISTS object (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, id TEXT NOT NULL, customer TEXT NOT NULL,
    created INTEGER NOT NULL, body TEXT NOT NULL, UNIQUE (type, id));
CREATE INDEX IF NOT EXISTS object_by_customer ON object (type, customer, seq);
CREATE INDEX IF NOT EXISTS object_by_type ON object (type, seq);
CREATE TABLE IF NOT EXISTS metadata (
    type TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, id TEXT NOT NULL,
    PRIMARY KEY (type, key, value, id)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS metadata_by_id ON metadata (type, id);
CREATE TABLE IF NOT EXISTS meter_event (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, identifier TEXT NOT NULL, received INTEGER NOT NULL, meter TEXT NOT NULL,
    customer TEXT NOT NULL, timestamp INTEGER NOT NULL, value TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS meter_event_by_identifier ON meter_event (identifier, received);
CREATE TABLE IF NOT EXISTS meter_error (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, meter TEXT NOT NULL, code TEXT NOT NULL, message TEXT NOT NULL,
    request TEXT NOT NULL, at INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS meter_error_by_meter ON meter_error (meter, seq);
CREATE INDEX IF NOT EXISTS meter_event_by_time ON meter_event (meter, customer, timestamp, seq);
CREATE TABLE IF NOT EXISTS idempotency (
    key TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, status INTEGER NOT NULL, body BLOB NOT NULL, at INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS idempotency_by_age ON idempotency (at);
CREATE TABLE IF NOT EXISTS delivery (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, event TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'pending',
    tries INTEGER NOT NULL DEFAULT 0, error TEXT);
CREATE INDEX IF NOT EXISTS delivery_by_state ON delivery (state, seq);
CREATE TABLE IF NOT EXISTS clock (id TEXT PRIMARY KEY, frozen_time INTEGER);
CREATE TABLE IF NOT EXISTS due (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, clock TEXT NOT NULL, at INTEGER NOT NULL, job TEXT NOT NULL,
    id TEXT NOT NULL, UNIQUE (job, id));
CREATE INDEX IF NOT EXISTS due_by_time ON due (clock, at, seq);
"""
_PAGE = """
SELECT seq, body FROM object WHERE type = :type AND customer = :customer AND seq < :below AND seq > :above
AND created BETWEEN :since AND :until ORDER BY seq """
_PAGE_OF_ALL = _PAGE.replace("AND customer = :customer ", "")
INTEGER_MAX = 2**63 - 1


class Store:
    """The one connection; every statement runs inside `transaction()`."""

    def __init__(self, path: str) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
        for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = OFF", "temp_store = MEMORY"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block wrote, or nothing of it."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def execute(self, sql: str, **values: Any) -> int:
        """Write, and return the number of rows written."""
        return self._db.execute(sql, values).rowcount

    def row(self, sql: str, **values: Any) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
        return found

    def rows(self, sql: str, **values: Any) -> list[tuple[Any, ...]]:
        return self._db.execute(sql, values).fetchall()

    def find(self, kind: str, identifier: str) -> JsonObject | None:
        row = self.row("SELECT body FROM object WHERE type = :t AND id = :id", t=kind, id=identifier)
        return None if row is None else json.loads(row[0])

    def position(self, kind: str, identifier: str) -> int | None:
        row = self.row("SELECT seq FROM object WHERE type = :t AND id = :id", t=kind, id=identifier)
        return None if row is None else row[0]

    def put(self, body: JsonObject) -> None:
        """Insert or replace an object; its type, id, customer and creation are taken from the object."""
        kind, identifier, customer = body["object"], body["id"], body.get("customer") or ""
        created = body.get("created")
        self.execute(
            "INSERT INTO object (type, id, customer, created, body) VALUES (:type, :id, :customer, :created, :body)"
            " ON CONFLICT (type, id) DO UPDATE SET body = excluded.body",
            type=kind,
            id=identifier,
            customer=customer,
            created=created if isinstance(created, int) else 0,
            body=json.dumps(body, separators=(",", ":")),
        )

    def index_metadata(self, body: JsonObject) -> None:
        """Make an object findable by its metadata as it is now."""
        kind, identifier = body["object"], body["id"]
        self.execute("DELETE FROM metadata WHERE type = :t AND id = :id", t=kind, id=identifier)
        for key, value in body.get("metadata", {}).items():
            statement = "INSERT INTO metadata (type, key, value, id) VALUES (:t, :k, :v, :id)"
            self.execute(statement, t=kind, k=key, v=value, id=identifier)

    def scan(
        self,
        kind: str,
        *,
        customer: str | None = None,
        below: int = INTEGER_MAX,
        above: int = -1,
        since: int = -INTEGER_MAX,
        until: int = INTEGER_MAX,
        oldest_first: bool = False,
    ) -> Iterator[JsonObject]:
        """Objects of a type, newest first, read as they are asked for."""
        sql = (_PAGE_OF_ALL if customer is None else _PAGE) + ("ASC" if oldest_first else "DESC")
        bounds = {"below": below, "above": above, "since": since, "until": until}
        with closing(self._db.execute(sql, {"type": kind, "customer": customer, **bounds})) as cursor:
            for _seq, body in cursor:
                yield json.loads(body)
