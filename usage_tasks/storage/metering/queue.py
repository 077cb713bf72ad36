"""The queue of meter reports: claimed, sent, and accepted, postponed, parked, dropped or sent again.

A report is claimed with a lease in real time (a lease is about processes, not about billing), sent by its identifier,
and settled. One call per account is in flight: the oldest open report blocks the later ones, and a claimed report
blocks all. A report that is sent again gets a new identifier, for Stripe accepts each identifier once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.announcements import AccountParked
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.storage.leases import bounded, is_due, is_free
from usage_tasks.storage.operations.audit import auditing
from usage_tasks.storage.operations.outbox import announcing, payload_of
from usage_tasks.storage.rows import execute, fetch, fetch_one


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedReport:
    """A report that this worker alone may send until its lease ends."""

    attribution_id: AttributionId
    identifier: str
    quantity: int
    as_of: datetime
    attempts: int
    claimed_until: datetime
    customer_id: StripeCustomerId


class ReportOutcome(StrEnum):
    """How sending a report ended. An unsent one was claimed and not tried.

    An early one is ahead of Stripe's clock, and a dropped one is too old for it: no account is at fault.
    """

    ACCEPTED = "accepted"
    RETRY = "retry"
    PARKED = "parked"
    UNSENT = "unsent"
    EARLY = "early"
    DROPPED = "dropped"


EARLY: Final = "early: "
"""The reason of a report that waits for Stripe's clock begins with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimSettlement:
    """A report with its outcome: why it was not accepted, and when it is due again.

    `renewed`: Stripe refused it under its identifier, and would repeat that refusal for a day: it gets another one.
    """

    report: ClaimedReport
    outcome: ReportOutcome
    error: str | None = None
    after: timedelta = field(default=timedelta(0))
    renewed: bool = False


_DUE = f"""
    r.state = 'pending' AND {is_due("r.next_attempt_at", now="now()")}
    AND {is_free("r.claimed_until", now="now()")}
    AND NOT EXISTS (
        SELECT 1 FROM meter_report earlier
        WHERE earlier.attribution_id = r.attribution_id AND earlier.as_of < r.as_of
            AND earlier.state IN ('pending', 'parked'))
    AND NOT EXISTS (
        SELECT 1 FROM meter_report busy
        WHERE busy.attribution_id = r.attribution_id AND busy.claimed_until IS NOT NULL
            AND NOT {is_free("busy.claimed_until", now="now()")})
    AND NOT EXISTS (
        SELECT 1 FROM stripe_customer p WHERE p.attribution_id = r.attribution_id AND p.parked_at IS NOT NULL)
"""


def is_any_due(connection: Connection) -> bool:
    """Return True if there is a report to be sent now."""
    return bool(fetch_one(connection, f"SELECT EXISTS (SELECT 1 FROM meter_report r WHERE {_DUE}) AS due").due)


def claim_reports(connection: Connection, *, limit: int, lease: timedelta) -> Sequence[ClaimedReport]:
    """Lease up to `limit` reports that are due, those due first, at most the oldest of each account."""
    statement = f"""
        WITH due AS (
            SELECT r.attribution_id, r.as_of FROM meter_report r
            WHERE {_DUE}
            ORDER BY r.next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED
        )
        UPDATE meter_report AS held
        SET claimed_until = clock_timestamp() + :lease, attempts = held.attempts + 1
        FROM due JOIN stripe_customer c ON c.attribution_id = due.attribution_id
        WHERE held.attribution_id = due.attribution_id AND held.as_of = due.as_of
        RETURNING held.attribution_id, held.identifier, held.quantity, held.as_of, held.attempts, held.claimed_until,
                  c.stripe_customer_id AS customer_id, held.next_attempt_at
    """
    # Read along the index until enough is found. The planner, wrong about how much is pending, would sort all of it.
    execute(connection, "SET LOCAL enable_sort = off")
    rows = sorted(fetch(connection, statement, limit=limit, lease=bounded(lease)), key=lambda row: row.next_attempt_at)
    names = ClaimedReport.__dataclass_fields__
    return [ClaimedReport(**{name: value for name, value in row._mapping.items() if name in names}) for row in rows]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyReports:
    """The reports that wait for Stripe's clock: how many, and since when the oldest does."""

    count: int
    oldest_at: datetime | None


def read_early(connection: Connection) -> EarlyReports:
    """Count the reports that wait for Stripe's clock."""
    statement = """
        SELECT count(*) AS count, min(created_at) AS oldest_at FROM meter_report
        WHERE state = 'pending' AND starts_with(error, :early)
    """
    return EarlyReports(**fetch_one(connection, statement, early=EARLY)._mapping)


def wake_early(connection: Connection, *, only: AttributionId | None = None) -> None:
    """Make the reports that wait for Stripe's clock due now: the wrong clock may have been set right.

    The first that is refused shows Stripe's clock to its run, which calls for no other.
    """
    statement = """
        UPDATE meter_report AS held SET next_attempt_at = clock_timestamp()
        FROM (
            SELECT attribution_id, as_of FROM meter_report
            WHERE state = 'pending' AND next_attempt_at > clock_timestamp() AND starts_with(error, :early)
                AND (CAST(:only AS text) IS NULL OR attribution_id = :only)
            ORDER BY attribution_id, as_of FOR UPDATE SKIP LOCKED
        ) AS waiting
        WHERE held.attribution_id = waiting.attribution_id AND held.as_of = waiting.as_of
    """
    execute(connection, statement, early=EARLY, only=only)


def list_parked_for_clock(connection: Connection, *, limit: int) -> Sequence[AttributionId]:
    """List accounts of which nothing is parked but reports whose timestamp Stripe refused.

    An older version parked such a report.
    """
    statement = """
        SELECT attribution_id FROM meter_report WHERE state = 'parked'
        GROUP BY attribution_id
        HAVING bool_and(strpos(lower(error), 'timestamp') > 0 AND (
            starts_with(error, 'stripe meter_events.create: ') OR starts_with(error, :counted)))
        ORDER BY attribution_id LIMIT :limit
    """
    rows = fetch(connection, statement, counted="stripe could not count it: timestamp_in_future", limit=limit)
    return [row.attribution_id for row in rows]


def list_waiting(connection: Connection, identifiers: Collection[str]) -> Mapping[str, timedelta]:
    """Return which of these reports are still unsent, and the time until each is due: a claimed one after its lease.

    The time is negative for a due report. Reports that are accepted, parked, dropped, under a new identifier, or of a
    parked customer are left out.
    """
    statement = """
        SELECT r.identifier, GREATEST(r.next_attempt_at, r.claimed_until) - clock_timestamp() AS after
        FROM meter_report r
        WHERE r.identifier = ANY(CAST(:identifiers AS text[])) AND r.state = 'pending' AND NOT EXISTS (
            SELECT 1 FROM stripe_customer p WHERE p.attribution_id = r.attribution_id AND p.parked_at IS NOT NULL)
    """
    return {row.identifier: row.after for row in fetch(connection, statement, identifiers=list(identifiers))}


_NEXT_IDENTIFIER = """
    held.attribution_id || ':' || extract(epoch FROM held.as_of)::bigint || ':' || held.resends + 1
"""
# Of a report that Stripe refused, and never took: that counts as no resend.
_RENEWED_IDENTIFIER = """
    held.attribution_id || ':' || extract(epoch FROM held.as_of)::bigint || ':' || held.resends
    || '-' || (extract(epoch FROM clock_timestamp()) * 1000)::bigint
"""

# A worker whose lease ran out may settle late: its success is still true, but any other result is no longer valid.
# Under a newer identifier no result of it is valid.
_SETTLE = f"""
    WITH outcome AS (
        SELECT * FROM unnest(
            CAST(:accounts AS text[]), CAST(:instants AS timestamptz[]), CAST(:identifiers AS text[]),
            CAST(:leases AS timestamptz[]), CAST(:outcomes AS text[]), CAST(:errors AS text[]),
            CAST(:afters AS interval[]), CAST(:renewed AS boolean[])
        ) AS t(attribution_id, as_of, identifier, claimed_until, outcome, error, after, renewed)
    ), settled AS (
        UPDATE meter_report AS held
        SET claimed_until = NULL,
            state = CASE WHEN o.outcome IN ('accepted', 'parked', 'dropped') THEN o.outcome ELSE 'pending' END,
            accepted_at = CASE WHEN o.outcome = 'accepted' THEN clock_timestamp() END,
            parked_at = CASE WHEN o.outcome = 'parked' THEN clock_timestamp() END,
            next_attempt_at = CASE WHEN o.outcome IN ('retry', 'unsent', 'early') THEN clock_timestamp() + o.after
                                   ELSE held.next_attempt_at END,
            attempts = held.attempts - (o.outcome IN ('unsent', 'early'))::int,
            error = CASE WHEN o.outcome = 'unsent' THEN COALESCE(o.error, held.error) ELSE o.error END,
            identifier = CASE WHEN o.renewed THEN {_RENEWED_IDENTIFIER} ELSE held.identifier END
        FROM outcome o
        WHERE held.attribution_id = o.attribution_id AND held.as_of = o.as_of AND held.identifier = o.identifier
            AND held.state = 'pending' AND (o.outcome = 'accepted' OR held.claimed_until = o.claimed_until)
        RETURNING held.attribution_id, held.as_of, held.state, held.quantity, held.resends, held.parked_at, held.error
    )
"""

# The account of a parked report gets no more reports: that is announced and noted in the statement that parks.
_PARKED = "settled WHERE state = 'parked' ORDER BY attribution_id"
_ANNOUNCED = announcing(
    _PARKED,
    name=f"'{AccountParked.name}'",
    once_per=("attribution_id", "extract(epoch FROM as_of)::bigint", "resends"),
    payload=payload_of(AccountParked, {"reason": "error", "at": "parked_at"}),
)
_NOTED = auditing(
    _PARKED,
    action="meter_report.parked",
    at="parked_at",
    details="jsonb_build_object('as_of', as_of, 'quantity', quantity, 'reason', error)",
)
_NOTED_DROPPED = auditing(
    "settled WHERE state = 'dropped' ORDER BY attribution_id",
    action="meter_report.drop",
    at="clock_timestamp()",
    details="jsonb_build_object('as_of', as_of, 'quantity', quantity, 'reason', error)",
)
_ANNOUNCE_PARKED = f"announced AS ({_ANNOUNCED}), noted AS ({_NOTED})"


def settle_reports(connection: Connection, settlements: Sequence[ClaimSettlement], *, actor: Actor) -> None:
    """Write down how each report of a claim ended; a parked account is announced, a dropped report noted."""
    reports = [each.report for each in settlements]
    execute(
        connection,
        f"{_SETTLE}, {_ANNOUNCE_PARKED}, noted_dropped AS ({_NOTED_DROPPED}) SELECT count(*) FROM settled",
        accounts=[report.attribution_id for report in reports],
        instants=[report.as_of for report in reports],
        identifiers=[report.identifier for report in reports],
        leases=[report.claimed_until for report in reports],
        outcomes=[each.outcome for each in settlements],
        errors=[each.error for each in settlements],
        afters=[each.after for each in settlements],
        renewed=[each.renewed for each in settlements],
        actor=actor,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SentReport:
    """A report that was sent before, to be judged again.

    `overtaken`: a later one of its period is in, or in flight. To send it after that one might set the meter back.
    """

    attribution_id: AttributionId
    as_of: datetime
    identifier: str
    quantity: int
    state: str
    resends: int
    overtaken: bool


_SENT = """
    attribution_id, as_of, identifier, quantity, state, resends, EXISTS (
        SELECT 1 FROM meter_report later
        WHERE later.attribution_id = meter_report.attribution_id AND later.as_of > meter_report.as_of
            AND later.period_starts_at = meter_report.period_starts_at
            AND (later.state = 'accepted' OR (later.state = 'pending' AND later.claimed_until >= now()))
    ) AS overtaken
"""


def lock_by_identifiers(connection: Connection, identifiers: Sequence[str]) -> Sequence[SentReport]:
    """Lock the reports of these identifiers that Stripe may have; no worker claims another of their accounts' now."""
    named = "SELECT attribution_id FROM meter_report WHERE identifier = ANY(CAST(:identifiers AS text[]))"
    _lock_open(connection, [row.attribution_id for row in fetch(connection, named, identifiers=list(identifiers))])
    statement = f"""
        SELECT {_SENT} FROM meter_report
        WHERE identifier = ANY(CAST(:identifiers AS text[])) AND state IN ('pending', 'accepted')
        ORDER BY attribution_id, as_of FOR UPDATE
    """
    return [SentReport(**row._mapping) for row in fetch(connection, statement, identifiers=list(identifiers))]


def lock_report(connection: Connection, attribution_id: AttributionId, *, state: str) -> SentReport | None:
    """Lock the oldest report of an account in a state, and its unsent reports."""
    _lock_open(connection, [attribution_id])
    statement = f"""
        SELECT {_SENT} FROM meter_report WHERE attribution_id = :account AND state = :state
        ORDER BY as_of LIMIT 1 FOR UPDATE
    """
    found = fetch(connection, statement, account=attribution_id, state=state)
    return SentReport(**found[0]._mapping) if found else None


def _lock_open(connection: Connection, accounts: Sequence[AttributionId]) -> None:
    statement = """
        SELECT 1 FROM meter_report WHERE attribution_id = ANY(CAST(:accounts AS text[])) AND state = 'pending'
        ORDER BY attribution_id, as_of FOR UPDATE
    """
    fetch(connection, statement, accounts=list(accounts))


def send_anew(connection: Connection, report: SentReport, *, after: timedelta, reason: str) -> bool:
    """Make a report due again under a new identifier. Return True if it is still as it was found.

    A report in flight keeps its claim: no other call is made for its account until that ends.
    """
    statement = f"""
        UPDATE meter_report AS held
        SET state = 'pending', accepted_at = NULL, parked_at = NULL, doubted_at = NULL, attempts = 0, error = :reason,
            next_attempt_at = clock_timestamp() + :after, resends = resends + 1, identifier = {_NEXT_IDENTIFIER}
        WHERE attribution_id = :account AND as_of = :as_of AND identifier = :identifier AND state <> 'dropped'
    """
    return _change(connection, statement, report, after=after, reason=reason)


def drop_report(connection: Connection, report: SentReport, *, reason: str) -> bool:
    """Drop a report that Stripe never counted and never will. Its quantity no longer counts as reported."""
    statement = """
        UPDATE meter_report
        SET state = 'dropped', accepted_at = NULL, parked_at = NULL, doubted_at = NULL, claimed_until = NULL,
            error = :reason
        WHERE attribution_id = :account AND as_of = :as_of AND identifier = :identifier AND state <> 'dropped'
    """
    return _change(connection, statement, report, reason=reason)


def park_report(connection: Connection, report: SentReport, *, reason: str, actor: Actor) -> bool:
    """Set a report aside that Stripe complained of after taking it; its account is announced as parked."""
    statement = f"""
        WITH settled AS (
            UPDATE meter_report
            SET state = 'parked', parked_at = clock_timestamp(), accepted_at = NULL, doubted_at = NULL,
                claimed_until = NULL, error = :reason
            WHERE attribution_id = :account AND as_of = :as_of AND identifier = :identifier
                AND state IN ('pending', 'accepted')
            RETURNING attribution_id, as_of, state, quantity, resends, parked_at, error
        ), {_ANNOUNCE_PARKED} SELECT attribution_id FROM settled
    """
    found = fetch(
        connection,
        statement,
        account=report.attribution_id,
        as_of=report.as_of,
        identifier=report.identifier,
        reason=reason,
        actor=actor,
    )
    return bool(found)


def _change(connection: Connection, statement: str, report: SentReport, **parameters: object) -> bool:
    named = {"account": report.attribution_id, "as_of": report.as_of, "identifier": report.identifier}
    return execute(connection, statement, **named, **parameters) == 1


def doubt_accepted(connection: Connection, *, since: datetime, until: datetime) -> int:
    """Mark the latest report of each account that Stripe took within [since, until) as one it may not have counted."""
    statement = """
        UPDATE meter_report AS held SET doubted_at = clock_timestamp()
        WHERE held.state = 'accepted' AND held.accepted_at >= :since AND held.accepted_at < :until
            AND held.doubted_at IS NULL
            AND NOT EXISTS (
                SELECT 1 FROM meter_report later
                WHERE later.attribution_id = held.attribution_id AND later.as_of > held.as_of
                    AND later.state = 'accepted' AND later.period_starts_at = held.period_starts_at)
    """
    return execute(connection, statement, since=since, until=until)


def clear_doubts(connection: Connection, attribution_id: AttributionId, *, until: datetime) -> None:
    """Note that an account's reports were found to be counted, or overtaken, up to an instant."""
    statement = """
        UPDATE meter_report SET doubted_at = NULL
        WHERE attribution_id = :account AND as_of <= :until AND doubted_at IS NOT NULL
    """
    execute(connection, statement, account=attribution_id, until=until)
