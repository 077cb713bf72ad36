"""One version's figures on demand, for `beside`: reads what to do from standard input, a line each, and answers so.

It is run in the checkout of each version, so it uses only what both have.
"""

import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.benchmarks.population import NOW, add_cost_centers, add_sessions
from tests.factories import DAY, START, SYSTEM, make_id
from usage_tasks import bulk
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.ledger.post_usage import BATCH, announce_limits, post_batch
from usage_tasks.storage import migrate
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.pricing.prices import publish_prices
from usage_tasks.tasks.usage import sessions

ACCOUNTS: Final = 5_000
HISTORY: Final = 200_000
POSTED: Final = 50_000
RECORDED: Final = 10_000
BATCHES: Final = 2_000
IMPORTED: Final = 50_000
CHANGED: Final = 5
"""Where sessions change, each fifth has three segments."""

_CHANGE = """
    UPDATE workspace_instance w SET timeline = jsonb_build_array({segments}) WHERE right(workspace_id, 1) IN ('0', '5')
        AND timeline IS NULL AND {which}
"""
_SEGMENT = """jsonb_build_object('from', to_char((started_at + interval '{minutes} minutes') AT TIME ZONE 'UTC',
    'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'observed_at', '2026-06-01T00:00:00.000000Z', 'workspace_class', '{name}',
    'state', 'running')"""
_CLASSES = ("small", "medium", "large", "xlarge")


class Version:
    """A database of this version, and the work that is measured."""

    def __init__(self, *, changing: bool) -> None:
        self.rt: Runtime = runtime()
        self._changing = changing
        self._backends = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
        self._directory = Path(tempfile.mkdtemp())

    def setup(self, _: int) -> float:
        """Make the database: a posted history, and what runs."""
        migrate.upgrade(self.rt.settings.sqlalchemy_url)
        with self.rt.transaction() as connection:
            publish_prices(connection, self.rt.settings.credits_per_minute_by_workspace_class, at=START, actor=SYSTEM)
            add_cost_centers(connection, accounts=ACCOUNTS)
        self._add("history ", HISTORY, ACCOUNTS, START, stopped=True)
        self._post()
        self._add("running ", POSTED, ACCOUNTS, NOW - DAY, stopped=False)
        self._add("busy ", 1_000, 1, NOW - DAY, stopped=False)
        self._backends.execute("VACUUM ANALYZE")
        self._tick()
        return 0

    def posting(self, number: int) -> float:
        """Post newly stopped sessions."""
        self._add(f"new {number} ", POSTED, ACCOUNTS, NOW - (20 - number) * DAY, stopped=True)
        self._backends.execute("ANALYZE workspace_instance, open_session")
        return self._cpu(self._post)

    def tick(self, _: int) -> float:
        """Do ten ticks of the ledger job that find nothing to post."""

        def ten_ticks() -> None:
            for _ in range(10):
                self._tick()

        return self._cpu(ten_ticks)

    def balance(self, _: int) -> float:
        """Ask a balance 200 times, 1,000 sessions running on the account."""
        with self.rt.transaction() as connection:
            account = connection.exec_driver_sql("SELECT 'team:' || md5('account0')::uuid").scalar_one()
        return self._cpu(lambda: self._ask(account))

    def recording(self, number: int) -> float:
        """Record new sessions by the task, and the same ones again."""
        batches = []
        for begin in range(0, RECORDED, BATCHES):
            reports = [self._report(f"record {number}", n) for n in range(begin, begin + BATCHES)]
            batches.append([report | {"segments": changes} if changes else report for report, changes in reports])
        record: Any = sessions.record_instances

        def record_all() -> None:
            for batch in [*batches, *batches]:
                record(instances=batch, actor="service:tests", at=NOW.isoformat())

        return self._cpu(record_all)

    def importing(self, number: int) -> float:
        """Import a file of new sessions."""
        path = self._directory / f"{number}.csv"
        with path.open("w", newline="") as file:
            rows = list(self._rows(number))
            names = [*rows[0], "from", "state"] if self._changing else list(rows[0])
            writer = csv.DictWriter(file, names, restval="")
            writer.writeheader()
            writer.writerows(rows)

        def import_all() -> None:
            assert all(not done.rejections for done in bulk.import_file(self.rt, path, at=NOW, actor=SYSTEM))

        return self._cpu(import_all)

    def _rows(self, number: int) -> Iterator[Mapping[str, str]]:
        for n in range(IMPORTED):
            report, changes = self._report(f"import {number}", n)
            yield report
            for change in changes:
                yield {"instance_id": report["instance_id"], **change}

    def _report(self, tag: str, n: int) -> tuple[dict[str, Any], list[dict[str, str]]]:
        started = START + timedelta(days=100, seconds=n % 86_400)
        stopped = started + timedelta(seconds=60 + n % 7_200)
        report = {
            "instance_id": str(make_id(f"{tag} {n}")),
            "workspace_id": f"ws-{n}",
            "user_id": str(make_id(f"user {n % 997}")),
            "attribution_id": f"team:{make_id(f'account {n % ACCOUNTS}')}",
            "workspace_class": _CLASSES[n % len(_CLASSES)],
            "started_at": started.isoformat(),
            "stopped_at": stopped.isoformat(),
            "observed_at": stopped.isoformat(),
        }
        changes = [
            {"from": (started + timedelta(minutes=minutes)).isoformat(), "workspace_class": name}
            for minutes, name in ((10, "large"), (20, "xlarge"))
        ]
        return report, changes if self._changing and n % CHANGED == 0 else []

    def _add(self, tag: str, count: int, accounts: int, started_at: Any, *, stopped: bool) -> None:
        with self.rt.transaction() as connection:
            add_sessions(connection, tag, count=count, accounts=accounts, started_at=started_at, stopped=stopped)
            if self._changing:
                segments = ", ".join(
                    _SEGMENT.format(minutes=m, name=name) for m, name in ((10, "large"), (20, "small"))
                )
                which = "EXISTS (SELECT FROM open_session o WHERE o.instance_id = w.instance_id)"
                connection.exec_driver_sql(_CHANGE.format(segments=segments, which=which))

    def _post(self) -> None:
        while True:
            with self.rt.transaction() as connection:
                if post_batch(connection, at=NOW).entries < BATCH:
                    return

    def _tick(self) -> None:
        self._post()
        with self.rt.transaction() as connection:
            announce_limits(connection, at=NOW)

    def _ask(self, account: Any) -> None:
        with self.rt.transaction() as connection:
            for _ in range(200):
                get_balance(connection, account, at=NOW)

    def _cpu(self, work: Callable[[], object]) -> float:
        """Return the processor time of some work, that of the server's processes for this database included."""
        before = self._used()
        work()
        after = self._used()
        return sum(after.values()) - sum(used for pid, used in before.items() if pid in after)

    def _used(self) -> dict[int, float]:
        statement = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        pids = [pid for (pid,) in self._backends.execute(statement)]
        ticks = os.sysconf("SC_CLK_TCK")
        used = {0: time.process_time()}
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used[pid] = (int(fields[11]) + int(fields[12])) / ticks
        return used


def main() -> None:
    """Answer each line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # logs are no answers
    version = Version(changing=sys.argv[1:] == ["changing"])
    for line in sys.stdin:
        what, number = json.loads(line)
        answers.write(json.dumps(getattr(version, what)(number)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
