"""End the billing cycles that are due: cover what the allowance covers, carry the rest, advance.

A cycle's reset and its advance are one transaction, under the key `reset:<cycle>`; accounts that are late catch up
one cycle at a time, each with its own allowance. Balances are taken as of the cycle's end, not as of the run.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.cost_centers import CostCenter, covered_by_reset
from usage_tasks.domain.errors import InvariantError
from usage_tasks.domain.ledger import EntryKind, reset_key
from usage_tasks.services.isolation import in_halves
from usage_tasks.storage import balances, cost_centers, entries
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.plans import SAMPLE_MAX, Plan

BATCH: Final = 500
_SYSTEM_ACTOR: Final = Actor("service:usage.reset")
_CYCLES_MAX: Final = 1_200
"""A hundred years of months: a bound on the catching up of one account."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetBatch:
    """What one batch did: cycles ended, entries written, and the accounts whose cycle could not be, with the reason."""

    cycles: int
    failed: Sequence[tuple[AttributionId, str]]
    entries: Sequence[entries.Entry]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetPlan:
    """What a run of the reset job would do: cycles it ends, entries it writes, accounts that fail and some of them."""

    cycles: int
    entries: Plan
    accounts_failed: int
    failed: Sequence[tuple[AttributionId, str]]


def reset_due(connection: Connection, *, at: datetime, excluding: Sequence[AttributionId] = ()) -> ResetBatch:
    """End one cycle of each of a batch of accounts that are due at `at`, oldest first.

    Accounts that are further behind are due again; those that failed are to be excluded from the next batch.
    """
    due = cost_centers.claim_due(connection, at=at, limit=BATCH, excluding=excluding)
    written: list[entries.Entry] = []
    failed = in_halves(connection, due, lambda part: written.extend(_end_cycles(connection, part, actor=_SYSTEM_ACTOR)))
    return ResetBatch(
        cycles=len(due) - len(failed),
        failed=[(current.attribution_id, reason) for current, reason in failed],
        entries=written,
    )


def plan_resets(connection: Connection, *, at: datetime) -> ResetPlan:
    """Answer what the job would do at `at`, by doing it and taking it back: one cycle's reset builds on another's.

    Accounts that another worker holds are left out; until this ends it holds those that are due.
    """
    cycles = rows = cents = 0
    sample: list[entries.Entry] = []
    failed: list[tuple[AttributionId, str]] = []
    with rehearsal(connection):
        while True:
            batch = reset_due(connection, at=at, excluding=[account for account, _ in failed])
            if not batch.cycles and not batch.failed:
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


def reset_account(connection: Connection, attribution_id: AttributionId, *, at: datetime, actor: Actor) -> int:
    """End every cycle of one account that is due at `at`; return how many were."""
    cycles = 0
    for _ in range(_CYCLES_MAX):
        if not cost_centers.get_current(connection, attribution_id).is_due(at):
            break
        # Another worker may end this cycle while we wait for it: then nothing is claimed, and the next may be due.
        due = cost_centers.claim_due(connection, at=at, limit=1, only=attribution_id)
        _end_cycles(connection, due, actor=actor)
        cycles += len(due)
    return cycles


def _end_cycles(connection: Connection, due: Sequence[CostCenter], *, actor: Actor) -> Sequence[entries.Entry]:
    held = balances.list_balances(connection, [(current.attribution_id, current.next_billing_at) for current in due])
    covered = {current: covered_by_reset(held[current.attribution_id], current.spending_limit) for current in due}
    resets = [_reset_entry(current, cents) for current, cents in covered.items() if cents > 0]
    if entries.append_entries(connection, resets) != len(resets):
        raise InvariantError(f"reset: one of {[reset.key for reset in resets]} stands although its cycle is open")
    advanced = [replace(current, version=current.version + 1, cycle=current.cycle.following()) for current in due]
    cost_centers.append_versions(connection, advanced, actor=actor)
    return resets


def _reset_entry(current: CostCenter, cents: int) -> entries.Entry:
    return entries.Entry(
        attribution_id=current.attribution_id,
        key=reset_key(current.cycle.started_at),
        kind=EntryKind.RESET,
        credit_cents=-cents,
        effective_at=current.next_billing_at,
        description=f"Allowance of the cycle from {current.cycle.started_at:%Y-%m-%d}",
    )
