"""The real quarter billed a second time, by other code: plain fractions over the file, no line of the system's.

Only the demo's plan is repeated here by hand: its prices, the paying accounts with their start, and the default limits.
"""

import calendar
import csv
import gzip
import math
from collections import defaultdict
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).parents[2] / "usage_tasks" / "demo" / "data" / "metacentrum-2013q1.csv.gz"
RATES: Final = {
    "small": Fraction(5, 1000),
    "medium": Fraction(125, 10000),
    "large": Fraction(4, 100),
    "xlarge": Fraction(1, 10),
}
BEGIN: Final = datetime(2012, 12, 31, tzinfo=UTC)
END: Final = datetime(2013, 5, 1, tzinfo=UTC)
LIMIT_CENTS: Final = {"team": 50_000, "user": 10_000}

Run = tuple[datetime, datetime, Fraction]


def read_runs() -> dict[str, list[Run]]:
    """Per account, each session's start, end and rate."""
    runs: dict[str, list[Run]] = defaultdict(list)
    with gzip.open(FILE, "rt") as file:
        for row in csv.DictReader(file):
            started, stopped = (datetime.fromisoformat(row[name]) for name in ("started_at", "stopped_at"))
            runs[row["attribution_id"]].append((started, stopped, RATES[row["workspace_class"]]))
    return dict(runs)


def cents_until(runs: list[Run], instant: datetime) -> int:
    """Return the cost of an account's sessions up to an instant: each session on its own, half a cent up."""
    total = 0
    for started, stopped, rate in runs:
        seconds = Fraction((min(stopped, instant) - started).total_seconds())
        if seconds > 0:
            total += math.floor(seconds / 60 * rate * 100 + Fraction(1, 2))
    return total


def month_ends(start: datetime) -> list[datetime]:
    """The ends of the months that began at an instant, up to the end of the replay."""
    ends = []
    for months in range(1, 12):
        year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
        last_day = calendar.monthrange(year, month + 1)[1]
        ends.append(start.replace(year=year, month=month + 1, day=min(start.day, last_day)))
    return [end for end in ends if end <= END]


def paying_since(accounts: list[str]) -> dict[str, datetime]:
    """Return the accounts that pay through Stripe, each with its start."""
    teams = sorted(account for account in accounts if account.startswith("team"))
    individuals = sorted(account for account in accounts if account.startswith("user"))
    since = dict.fromkeys(teams[:-1], BEGIN)
    since[teams[-1]] = datetime(2013, 2, 15, 6, tzinfo=UTC)
    return since | dict.fromkeys(individuals[:4], datetime(2013, 1, 20, 12, tzinfo=UTC))


def bill(account: str, runs: list[Run], since: datetime | None) -> dict[str, int]:
    """One account's quarter: allowances while it does not pay, the amount forgiven by the upgrade, then invoices."""
    covered = forgiven = invoiced = 0
    for end in month_ends(BEGIN):
        if since is None or end <= since:
            covered += max(0, min(LIMIT_CENTS[account[:4]], cents_until(runs, end) - covered))
    if since is not None:
        forgiven = max(0, cents_until(runs, since) - covered)
        for end in month_ends(since):
            balance = cents_until(runs, end) - covered - forgiven - invoiced
            invoiced += max(0, -(-balance // 100)) * 100
    used = cents_until(runs, END)
    return {
        "used_cents": used,
        "invoiced_cents": invoiced,
        "covered_cents": covered,
        "forgiven_cents": forgiven,
        "carried_cents": used - invoiced - covered - forgiven,
    }


def bill_everybody() -> dict[str, dict[str, int]]:
    """Every account's quarter."""
    runs = read_runs()
    since = paying_since(list(runs))
    return {account: bill(account, runs[account], since.get(account)) for account in runs}
