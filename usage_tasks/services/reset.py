"""End the billing cycles that are due: cover what grants and then the allowance cover, carry the rest, advance.

A cycle's reset and its advance are one transaction, under the key `reset:<cycle>`; accounts that are late catch up
one cycle at a time, each with its own allowance. Balances are taken as of the cycle's end, not as of the run. Grants
that expired are settled by the same steps, so that an account's instants are taken in their order, however late.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import CostCenter, covered_by_reset
from usage_tasks.domain.grants import OpenGrant, Settlement, next_settlement
from usage_tasks.domain.ledger import EntryKind, reset_key
from usage_tasks.services import settle
from usage_tasks.services.isolation import in_halves
from usage_tasks.storage import cost_centers, entries, grants

BATCH: Final = 500
_SYSTEM_ACTOR: Final = Actor("service:usage.reset")
_STEPS_MAX: Final = 1_200
"""A hundred years of months: a bound on the catching up of one account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetBatch:
    """What one batch did: cycles ended, expiries settled, and the accounts that failed, with the reason."""

    cycles: int
    expiries: int
    failed: Sequence[tuple[AttributionId, str]]

    @property
    def idle(self) -> bool:
        """Nothing was there to do."""
        return not (self.cycles or self.expiries or self.failed)


Step = tuple[CostCenter, Settlement]


def reset_due(connection: Connection, *, at: datetime, excluding: Sequence[AttributionId] = ()) -> ResetBatch:
    """End one cycle of each of a batch of accounts that are due at `at`, oldest first.

    Of an account with a grant that expired in that cycle, only that is settled. Accounts that are further behind are
    due again; those that failed are to be excluded from the next batch.
    """
    due = cost_centers.claim_due(connection, at=at, limit=BATCH, excluding=excluding)
    return _take_batch(connection, due, at=at)


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
    failures = in_halves(
        connection, steps, lambda part: _take_steps(connection, part, open_grants, actor=_SYSTEM_ACTOR)
    )
    failed = {current.attribution_id: reason for (current, _), reason in failures}
    ends = [settlement.ends_cycle for current, settlement in steps if current.attribution_id not in failed]
    return ResetBatch(cycles=ends.count(True), expiries=ends.count(False), failed=list(failed.items()))


def _next_steps(
    connection: Connection, due: Sequence[CostCenter], *, at: datetime
) -> tuple[Sequence[Step], Mapping[AttributionId, Sequence[OpenGrant]]]:
    """Tell what each of the accounts that we hold is to do next, and the grants that may pay for it."""
    open_grants = grants.list_open(connection, [current.attribution_id for current in due])
    steps = [(current, next_settlement(current, open_grants.get(current.attribution_id, ()), by=at)) for current in due]
    return [(current, settlement) for current, settlement in steps if settlement is not None], open_grants


def _take_steps(
    connection: Connection,
    steps: Sequence[Step],
    open_grants: Mapping[AttributionId, Sequence[OpenGrant]],
    *,
    actor: Actor,
) -> None:
    decided = settle.decide(connection, [settlement for _, settlement in steps], open_grants)
    ended = [
        (current, each.left_open)
        for (current, settlement), each in zip(steps, decided, strict=True)
        if settlement.ends_cycle
    ]
    covered = [(current, covered_by_reset(left_open, current.spending_limit)) for current, left_open in ended]
    settle.write(connection, decided, [_reset_entry(current, cents) for current, cents in covered if cents > 0])
    advanced = [replace(current, version=current.version + 1, cycle=current.cycle.following()) for current, _ in ended]
    cost_centers.append_versions(connection, advanced, actor=actor)


def _reset_entry(current: CostCenter, cents: int) -> entries.Entry:
    return entries.Entry(
        attribution_id=current.attribution_id,
        key=reset_key(current.cycle.started_at),
        kind=EntryKind.RESET,
        credit_cents=-cents,
        effective_at=current.next_billing_at,
        description=f"Allowance of the cycle from {current.cycle.started_at:%Y-%m-%d}",
    )
