"""The system under test, as a platform and an operator use it, with one session of one account."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, text

from tests.factories import DAY, LIMITS, START, SYSTEM, add_version, team
from tests.sessions.timelines.oracle import RUNNING, Prices, Segment, Session, Told, Value, Version, living
from tests.sessions.timelines.stories import INSTANCE
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.prices import AskedPrice
from usage_tasks.domain.rating import ChargeRule, PriceVersion
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.services.pricing.add_price import add_price_version
from usage_tasks.services.sessions.record import RecordedBatch, record_reports
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.rows import fetch_one
from usage_tasks.wire.session_reports import parse_reports

NOW: Final = START + 10 * DAY
"""Later than every instant of a story."""

ROW: Final = "SELECT *, timeline::text AS timeline_text FROM workspace_instance WHERE instance_id = :instance"
FACTS: Final = ("started_at", "stopping_at", "stopped_at", "observed_at")


class System:
    """One session in the database, and the price versions of its classes and states."""

    def __init__(self, connection: Connection, prices: Prices) -> None:
        self.connection = connection
        for key, versions in prices.items():
            for version in versions:
                rule = ChargeRule(
                    minimum_cents=CreditCents(version.minimum_cents), rounding_seconds=version.step_seconds
                )
                add_version(
                    connection,
                    key,
                    PriceVersion(
                        effective_from=version.effective_from,
                        credits_per_minute=version.credits_per_minute,
                        rule=rule,
                    ),
                )

    def hear(self, *raw: Mapping[str, Any]) -> RecordedBatch:
        """Record reports as one batch."""
        reports, malformed = parse_reports(raw, at=NOW)
        return record_reports(self.connection, reports, malformed, raw=raw, limits=LIMITS, at=NOW, actor=SYSTEM)

    def add_price(self, key: str, version: Version) -> None:
        """Add a version by hand."""
        asked = AskedPrice(
            workspace_class=key,
            effective_from=version.effective_from,
            credits_per_minute=version.credits_per_minute,
            minimum_cents=CreditCents(version.minimum_cents),
            rounding_seconds=version.step_seconds,
        )
        add_price_version(self.connection, asked, at=NOW, actor=SYSTEM)

    def post(self) -> None:
        """Tick the ledger job once."""
        post_batch(self.connection, at=NOW)

    def posted_cents(self) -> int:
        """The sum of the session's entries."""
        statement = (
            "SELECT COALESCE(sum(credit_cents), 0)::bigint AS cents FROM ledger_entry WHERE instance_id = :instance"
        )
        return int(fetch_one(self.connection, statement, instance=INSTANCE).cents)

    def balance(self, at: datetime) -> int:
        """The account's balance at an instant."""
        return get_balance(self.connection, team(), at=at)

    def assert_verified(self) -> None:
        """Nothing offends."""
        verdict = verify(self.connection, at=NOW)
        assert verdict.clean, verdict.describe()

    def facts(self) -> tuple[Any, ...]:
        """The session's class and user, and the facts of its greatest report."""
        row = fetch_one(self.connection, ROW, instance=INSTANCE)
        return (row.workspace_class, str(row.user_id), *(getattr(row, name) for name in FACTS))

    def timeline_text(self) -> str | None:
        """The stored timeline, or None."""
        text_of_row: str | None = fetch_one(self.connection, ROW, instance=INSTANCE).timeline_text
        return text_of_row

    def values_at(self, instants: Iterable[datetime]) -> list[Value]:
        """The class and state at each instant: of the stored segments the last one that began by then."""
        row = fetch_one(self.connection, ROW, instance=INSTANCE)
        segments = json.loads(row.timeline_text or "[]")
        begins = [datetime.fromisoformat(each["from"]) for each in segments]
        assert begins == sorted(begins)

        def value_at(instant: datetime) -> Value:
            begun = [each for begin, each in zip(begins, segments, strict=True) if begin <= instant]
            last = begun[-1] if begun else {"workspace_class": row.workspace_class, "state": RUNNING}
            return Value(last["workspace_class"], last["state"])

        return [value_at(instant) for instant in instants]

    def quarantined(self) -> list[dict[str, Any]]:
        """The reports that wait in quarantine, as they came."""
        return [
            json.loads(row) for row in self.connection.execute(text("SELECT report FROM quarantined_report")).scalars()
        ]


def facts_of(session: Session) -> tuple[Any, ...]:
    """The facts of a session as `System.facts` has them."""
    return (session.claim.workspace_class, session.claim.user_id, *_facts(session.facts))


def gist_of(refused: Iterable[Told], *, by_class: bool) -> dict[tuple[str, ...], Any]:
    """What refused reports state, merged by user and, unless segments correct classes, by class.

    The reports that a later one refused may be one row in quarantine: only their merged content is comparable.
    """
    groups: dict[tuple[str, ...], list[Told]] = defaultdict(list)
    for each in refused:
        groups[(each.user_id, each.claim.workspace_class) if by_class else (each.user_id,)].append(each)
    return {key: (_facts(max(group, key=lambda each: each.rank)), _living(group)) for key, group in groups.items()}


def _facts(told: Told) -> tuple[Any, ...]:
    return (told.started_at, told.stopping_at, told.stopped_at, told.observed_at)


def _living(group: Iterable[Told]) -> frozenset[Segment]:
    return living(segment for each in group for segment in each.segments)
