"""End the billing cycles that are due: cover what grants and then the allowance cover, carry the rest, advance.

A cycle's reset and its advance are one transaction, under the key `reset:<cycle>`; accounts that are late catch up
one cycle at a time, each with its own allowance. Balances are taken as of the cycle's end, not as of the run. Grants
that expired are settled by the same steps, so that an account's instants are taken in their order, however late.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import CostCenter, covered_by_reset
from usage_tasks.domain.grants import OpenGrant, Settlement, next_settlement
from usage_tasks.domain.ledger import EntryKind, reset_key
from usage_tasks.services.ledger import burn_grants
from usage_tasks.services.ledger.isolation import bisect_failures
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.ledger import cost_centers, grants
from usage_tasks.storage.ledger.entries import Entry
from usage_tasks.storage.plans import SAMPLE_MAX, Plan

BATCH: Final = 500
_SYSTEM_ACTOR: Final = Actor("service:usage.reset")
_STEPS_MAX: Final = 1_200
"""A hundred years of months: a bound on the catching up of one account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetBatch:
    """The result of one batch: cycles ended, expiries settled, failed accounts with the reason, entries written."""

    cycles: int
    expiries: int
    failed: Sequence[tuple[AttributionId, str]]
    entries: Sequence[Entry] = ()

    @property
    def idle(self) -> bool:
        """Nothing was there to do."""
        return not (self.cycles or self.expiries or self.failed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPlan:
    """The result of a planned run of the reset job: ended cycles, entries, the number of failing accounts and some."""

    cycles: int
    entries: Plan
    accounts_failed: int
    failed: Sequence[tuple[AttributionId, str]]


Step = tuple[CostCenter, Settlement]


def reset_due(connection: Connection, *, at: datetime, excluding: Sequence[AttributionId] = ()) -> ResetBatch:
    """End one cycle of each of a batch of accounts that are due at `at`, oldest first.

    For an account with a grant that expired in that cycle, only the expiry is settled. Accounts that are further behind
    are due again. The caller must exclude failed accounts from the next batch.
    """
    due = cost_centers.claim_due(connection, at=at, limit=BATCH, excluding=excluding)
    return _take_batch(connection, due, at=at)


def plan_resets(connection: Connection, *, at: datetime) -> ResetPlan:
    """Return what the job would do at `at`, by executing it and rolling back: one cycle's reset builds on another's.

    It leaves out accounts that another worker holds, and holds the due accounts until it ends.
    """
    with rehearsal(connection):
        return _do_all(connection, reset_due, at=at)


def rehearse_expiries(connection: Connection, *, at: datetime) -> ResetPlan:
    """Settle every grant that expired by `at`, and return the effect. The caller rolls back."""
    return _do_all(connection, settle_expired, at=at)


def _do_all(connection: Connection, take: Callable[..., ResetBatch], *, at: datetime) -> ResetPlan:
    cycles = rows = cents = 0
    sample: list[Entry] = []
    failed: list[tuple[AttributionId, str]] = []
    while True:
        batch = take(connection, at=at, excluding=[account for account, _ in failed])
        if batch.idle:
            break
        cycles, rows = cycles + batch.cycles, rows + len(batch.entries)
        cents += sum(entry.credit_cents for entry in batch.entries)
        sample += batch.entries[: SAMPLE_MAX - len(sample)]
        failed += batch.failed
    return ResetPlan(
        cycles=cycles,
        entries=Plan(rows=rows, credit_cents=cents, sample=[asdict(entry) for entry in sample]),
        accounts_failed=len(failed),
        failed=failed[:SAMPLE_MAX],
    )


def settle_expired(connection: Connection, *, at: datetime, excluding: Sequence[AttributionId] = ()) -> ResetBatch:
    """Settle one instant of each of a batch of accounts with a grant that expired by `at`.

    Of an account whose cycle ended before that, it is the cycle's end; the account is due again.
    """
    due = cost_centers.claim_expired_grants(connection, at=at, limit=BATCH, excluding=excluding)
    return _take_batch(connection, due, at=at)


def reset_account(connection: Connection, attribution_id: AttributionId, *, at: datetime, actor: Actor) -> int:
    """End every cycle and settle every grant's expiry of one account that are due at `at`; return how many were."""
    taken = 0
    for _ in range(_STEPS_MAX):
        # Another worker may take this step while we wait for it: then nothing is claimed, and the next may be due.
        if cost_centers.get_current(connection, attribution_id).is_due(at):
            due = cost_centers.claim_due(connection, at=at, limit=1, only=attribution_id)
        elif grants.has_expired(connection, attribution_id, at=at):
            due = cost_centers.claim_expired_grants(connection, at=at, limit=1, only=attribution_id)
        else:
            break
        steps, open_grants = _next_steps(connection, due, at=at)
        _take_steps(connection, steps, open_grants, actor=actor)
        taken += len(steps)
    return taken


def _take_batch(connection: Connection, due: Sequence[CostCenter], *, at: datetime) -> ResetBatch:
    steps, open_grants = _next_steps(connection, due, at=at)
    written: list[Entry] = []

    def take(part: Sequence[Step]) -> None:
        written.extend(_take_steps(connection, part, open_grants, actor=_SYSTEM_ACTOR))

    failures = bisect_failures(connection, steps, take)
    failed = {current.attribution_id: reason for (current, _), reason in failures}
    ends = [settlement.ends_cycle for current, settlement in steps if current.attribution_id not in failed]
    return ResetBatch(cycles=ends.count(True), expiries=ends.count(False), failed=list(failed.items()), entries=written)


def _next_steps(
    connection: Connection, due: Sequence[CostCenter], *, at: datetime
) -> tuple[Sequence[Step], Mapping[AttributionId, Sequence[OpenGrant]]]:
    """Return the next step of each account that we hold, and the grants that may pay for it."""
    open_grants = grants.list_open(connection, [current.attribution_id for current in due])
    steps = [(current, next_settlement(current, open_grants.get(current.attribution_id, ()), by=at)) for current in due]
    return [(current, settlement) for current, settlement in steps if settlement is not None], open_grants


def _take_steps(
    connection: Connection,
    steps: Sequence[Step],
    open_grants: Mapping[AttributionId, Sequence[OpenGrant]],
    *,
    actor: Actor,
) -> Sequence[Entry]:
    decided = burn_grants.decide(connection, [settlement for _, settlement in steps], open_grants)
    ended = [
        (current, each.left_open)
        for (current, settlement), each in zip(steps, decided, strict=True)
        if settlement.ends_cycle
    ]
    covered = [(current, covered_by_reset(left_open, current.spending_limit)) for current, left_open in ended]
    resets = [_reset_entry(current, cents) for current, cents in covered if cents > 0]
    written = burn_grants.write(connection, decided, resets)
    advanced = [replace(current, version=current.version + 1, cycle=current.cycle.following()) for current, _ in ended]
    cost_centers.append_versions(connection, advanced, actor=actor)
    return written


def _reset_entry(current: CostCenter, cents: int) -> Entry:
    return Entry(
        attribution_id=current.attribution_id,
        key=reset_key(current.cycle.started_at),
        kind=EntryKind.RESET,
        credit_cents=-cents,
        effective_at=current.next_billing_at,
        description=f"Allowance of the cycle from {current.cycle.started_at:%Y-%m-%d}",
    )
