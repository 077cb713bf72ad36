"""The system under test, as a platform and an operator use it, with one session of one account."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import groupby
from typing import Any, Final, NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from tests.factories import DAY, LIMITS, START, SYSTEM, add_version, team
from tests.sessions.timelines.oracle import (
    MICROSECOND,
    RUNNING,
    Claim,
    Prices,
    Segment,
    Session,
    Span,
    Told,
    Value,
    Version,
    living,
)
from tests.sessions.timelines.stories import INSTANCE, LAST
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.explanation import SessionExplanation
from usage_tasks.domain.prices import AskedPrice
from usage_tasks.domain.rating import ChargeRule, PriceVersion
from usage_tasks.domain.states import State
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.services.pricing.add_price import add_price_version
from usage_tasks.services.pricing.explain import explain_instance
from usage_tasks.services.sessions.import_reports import Chunk, import_chunk
from usage_tasks.services.sessions.quarantine import ReleasedReports, release_batch
from usage_tasks.services.sessions.record import RecordedBatch, record_reports
from usage_tasks.services.sessions.snapshot import Snapshot, report_running
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.limits.account_standings import list_standings
from usage_tasks.storage.pricing.rating_sql import COST_AT_MOST
from usage_tasks.storage.rows import fetch, fetch_one
from usage_tasks.storage.sessions.bulk_copy import COLUMNS
from usage_tasks.storage.sessions.quarantine import Selection
from usage_tasks.wire.session_reports import parse_reports

NOW: Final = START + 10 * DAY
"""Later than every instant of a story."""

ROW: Final = "SELECT *, timeline::text AS timeline_text FROM workspace_instance WHERE instance_id = :instance"


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

    def hear(self, *raw: Mapping[str, Any], at: datetime = NOW) -> RecordedBatch:
        """Record reports as one batch, which arrives at an instant."""
        reports, malformed = parse_reports(raw, at=at, namespace=uuid4)
        return record_reports(self.connection, reports, malformed, raw=raw, limits=LIMITS, at=at, actor=SYSTEM)

    def hear_by_file(self, *raw: Mapping[str, Any]) -> None:
        """Import a file of reports, which have no segments."""
        plain = {line: tuple(str(each.get(name, "")) for name in COLUMNS) for line, each in enumerate(raw, start=2)}
        chunk = Chunk(plain=plain, odd={})
        import_chunk(self.connection, chunk, opened=frozenset(), limits=LIMITS, at=NOW, actor=SYSTEM)

    def list_in_a_snapshot(self, row: Mapping[str, Any], *, taken_at: datetime) -> RecordedBatch:
        """Record a snapshot that lists the session as it is then, of a source that has no snapshot of another instant.

        A report that takes the session over takes proofs of life back: a later snapshot of the source would seem to
        miss the session, and end it until the next one.
        """
        source = f"cluster of {taken_at.isoformat()}"
        reports, malformed = parse_reports([row], at=taken_at, namespace=uuid4, source=source)
        snapshot = Snapshot(source=source, taken_at=taken_at, reports=reports, malformed=malformed, raw=[row])
        return report_running(self.connection, snapshot, limits=LIMITS, actor=SYSTEM).recorded

    def release(self) -> ReleasedReports:
        """Release every report in quarantine."""
        chosen = Selection()
        return release_batch(self.connection, chosen, after=None, limits=LIMITS, at=NOW, actor=SYSTEM).done

    def add_price(self, value: Value, version: Version) -> None:
        """Add a version by hand."""
        asked = AskedPrice(
            workspace_class=value.workspace_class,
            state=State(value.state),
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

    def balances(self, instants: Iterable[datetime]) -> list[int]:
        """The account's balance at each instant."""
        return [get_balance(self.connection, team(), at=at) for at in instants]

    def cost_at_most(self, at: datetime) -> int:
        """The bound by which an account far from its limits is left out, of what is not posted."""
        return math.ceil(sum(Fraction(row.credit_cents) for row in fetch(self.connection, COST_AT_MOST, at=at)))

    def burn_cents_per_hour(self, at: datetime) -> Fraction:
        """What runs at an instant costs so much an hour, if nothing is posted."""
        (standing,) = list_standings(self.connection, at=at, since=None, after="", limit=2)
        return Fraction(standing.burn_cents_per_hour)

    def explanation(self, at: datetime) -> SessionExplanation:
        """The numbers of the session's explanation as of an instant."""
        numbers = explain_instance(self.connection, UUID(INSTANCE), at=at).numbers
        assert isinstance(numbers, SessionExplanation)
        return numbers

    def assert_verified(self, *, grace: timedelta = timedelta(0)) -> None:
        """Nothing offends; what has stopped may wait for its entry as long as `grace`."""
        verdict = verify(self.connection, at=NOW, grace=grace)
        assert verdict.clean, verdict.describe()

    def facts(self) -> tuple[Any, ...]:
        """The session's claim, and the facts of its greatest report."""
        row = fetch_one(self.connection, ROW, instance=INSTANCE)
        claim = Claim(row.first_observed_at or row.observed_at, row.workspace_class, str(row.user_id))
        return (claim, row.started_at, row.stopping_at, row.stopped_at, row.observed_at)

    def timeline_text(self) -> str | None:
        """The stored timeline, or None."""
        text_of_row: str | None = fetch_one(self.connection, ROW, instance=INSTANCE).timeline_text
        return text_of_row

    def timeline(self) -> list[Segment]:
        """The stored timeline, in its order."""
        return [
            Segment(
                datetime.fromisoformat(each["observed_at"]),
                datetime.fromisoformat(each["from"]),
                Value(each["workspace_class"], each["state"]),
            )
            for each in json.loads(self.timeline_text() or "[]")
        ]

    def values_at(self, instants: Iterable[datetime]) -> list[Value]:
        """The class and state at each instant: of the stored segments the last one that began by then."""
        first = Value(fetch_one(self.connection, ROW, instance=INSTANCE).workspace_class, RUNNING)
        timeline = self.timeline()
        return [[first, *(each.value for each in timeline if each.begins_at <= at)][-1] for at in instants]

    def quarantined(self) -> list[dict[str, Any]]:
        """The reports that wait in quarantine, as they came; those of files without their lines."""
        rows = self.connection.execute(text("SELECT report FROM quarantined_report")).scalars()
        return [each.get("row", each) for each in map(json.loads, rows)]


def edges_of(session: Session) -> list[datetime]:
    """The session's start and end, each change of its value or price between, and the microseconds beside them."""
    end = session.ran_until(LAST)
    within = {each for each in session.edges if session.started_at < each < end}
    edges = {session.started_at, end, *within}
    return sorted({edge + offset for edge in edges for offset in (-MICROSECOND, timedelta(0), MICROSECOND)})


def assert_same(system: System, session: Session, asked: Sequence[datetime]) -> None:
    """The stored session is the oracle's, and so are its charge and its explanation, before posting and after.

    Balances are compared at the instants that are asked for, and explanations at the last of them and now.
    """
    assert system.facts() == _facts(session.accepted, session.claim)
    timeline = system.timeline()
    assert timeline == sorted(living(session.segments), key=lambda each: each.begins_at)
    edges = edges_of(session)
    assert system.values_at(edges) == [session.value_at(each) for each in edges]
    instants = [*asked, NOW]
    system.assert_verified(grace=NOW - START)
    _assert_charged(system, session, instants)
    with rehearsal(system.connection):
        system.post()
        system.assert_verified()
        _assert_charged(system, session, instants)
        if session.facts.stopped_at is not None:
            assert system.posted_cents() == session.cents(NOW)


def _assert_charged(system: System, session: Session, instants: Sequence[datetime]) -> None:
    assert system.balances(instants) == [session.cents(at) for at in instants]
    assert system.explanation(NOW).posted_cents == system.posted_cents()
    for at in instants[-2:]:
        found = system.explanation(at)
        assert (found.runtime_seconds, found.credit_cents) == (session.seconds(at), session.cents(at))
        assert (Fraction(found.exact), found.metered_cents) == (session.exact(at), session.metered_cents(at))
        rule = session.rule()
        assert (found.rounding_seconds, found.minimum_cents) == (rule.step_seconds, rule.minimum_cents)
        assert found.pending_cents == session.cents(at) - found.posted_cents
        assert _explained(found) == _joined(session.spans(at))


def _explained(found: SessionExplanation) -> list["Charged"]:
    spans = [
        Span(
            each.seconds,
            Value(each.workspace_class, each.state),
            Version(each.effective_from, each.credits_per_minute),
        )
        for each in found.spans
    ]
    assert found.charged_seconds == sum(each.seconds for each in spans)
    assert [each.product for each in found.spans] == [each.seconds * each.version.credits_per_minute for each in spans]
    return _joined(spans)


class Charged(NamedTuple):
    """Charged seconds of a class and state at one price, which holds since an instant."""

    value: Value
    effective_from: datetime
    credits_per_minute: Any
    seconds: int


def _joined(spans: Iterable[Span]) -> list[Charged]:
    """Join neighbours of one price, and leave out what has no second: an explanation may be cut otherwise."""
    some = [each for each in spans if each.seconds]
    groups = groupby(some, key=lambda each: (each.value, each.version.effective_from, each.version.credits_per_minute))
    return [Charged(*key, sum(each.seconds for each in group)) for key, group in groups]


def assert_same_quarantine(system: System, session: Session) -> None:
    """What waits in quarantine makes the same sessions as what the oracle refuses."""
    assert _gist(map(Told, system.quarantined())) == _gist(session.refused)


def _gist(refused: Iterable[Told]) -> dict[tuple[str, ...], Any]:
    """The session that the refused reports of each class and user would make.

    A session that was taken over waits as fewer reports than it came in: only what they make together is comparable.
    """
    groups: dict[tuple[str, ...], list[Told]] = defaultdict(list)
    for each in refused:
        groups[each.claim[1:]].append(each)
    return {
        key: (_facts(group, min(each.claim for each in group)), living(seg for each in group for seg in each.segments))
        for key, group in groups.items()
    }


def _facts(told: Sequence[Told], claim: Claim) -> tuple[Any, ...]:
    greatest = max(told, key=lambda each: each.rank)
    return (claim, greatest.started_at, greatest.stopping_at, greatest.stopped_at, greatest.observed_at)
