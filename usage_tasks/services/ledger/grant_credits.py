"""Give an account credits on terms: from when, until when, in which order, how much rolls over."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, Actor, parse_attribution
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.grants import GrantTerms, check_terms, pay_now
from usage_tasks.services.ledger.cost_center import get_cost_center
from usage_tasks.storage.ledger import balances, cost_centers, grants
from usage_tasks.storage.ledger.grants import GrantAsOf, GrantMovement, HeldGrant
from usage_tasks.storage.operations import audit

GRANTS_MAX: Final = 1_000
"""How many grants one answer lists, the newest first."""


def grant_credits(
    connection: Connection,
    terms: GrantTerms,
    *,
    effective_at_given: bool,
    limits: SpendingLimits,
    at: datetime,
    actor: Actor,
) -> HeldGrant:
    """Store a grant, which pays open usage from its effective time on. Return the stored grant.

    Settlements due by `at` come first: a grant does not reach into a cycle that has ended. The same key again
    changes nothing, whenever it comes; with other terms it is an InvalidInputError.
    """
    account = parse_attribution(terms.attribution_id)
    get_cost_center(connection, account, limits=limits, at=at, actor=actor)
    cost_centers.lock_current(connection, account.attribution_id)
    if (held := grants.find_grant(connection, account.attribution_id, terms.key)) is not None:
        asked = terms if effective_at_given else replace(terms, effective_at=held.terms.effective_at)
        if held.terms != asked:
            allowed = f"a new key: this key belongs to grant {held.number} of {held.terms.amount_cents} cents"
            raise InvalidInputError("idempotency_key", terms.key, allowed)
        return held
    check_terms(terms, at=at)
    made = grants.insert_grant(connection, terms, actor=actor)
    audit.append_audit(
        connection,
        at=at,
        actor=actor,
        action="grant.add",
        attribution_id=account.attribution_id,
        details={"number": made.number, "key": terms.key, "amount_cents": terms.amount_cents},
    )
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantStanding:
    """A grant at an instant, in cents: what is left, what of that the open balance would take now, what moved it."""

    number: int
    idempotency_key: str
    description: str
    amount_cents: int
    remaining_cents: int
    pending_cents: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    rollover_cap_cents: int | None
    movements: Sequence[GrantMovement]


def list_grants(connection: Connection, account: Account, *, at: datetime) -> Sequence[GrantStanding]:
    """List an account's grants as of an instant, the newest first, with each burn and lapse by then."""
    held = grants.list_as_of(connection, account.attribution_id, at=at, limit=GRANTS_MAX)
    movements = grants.list_movements(connection, account.attribution_id, at=at)
    gross = balances.list_gross_balances(connection, [(account.attribution_id, at)])[account.attribution_id]
    pending = {burn.grant.number: burn.burnt_cents for burn in pay_now([each.open for each in held], gross, at=at)}
    return [_standing(each, movements.get(each.open.number, ()), pending.get(each.open.number, 0)) for each in held]


def _standing(held: GrantAsOf, movements: Sequence[GrantMovement], pending_cents: int) -> GrantStanding:
    return GrantStanding(
        number=held.open.number,
        idempotency_key=held.key,
        description=held.description,
        amount_cents=held.amount_cents,
        remaining_cents=held.open.remaining_cents,
        pending_cents=pending_cents,
        priority=held.open.priority,
        effective_at=held.open.effective_at,
        expires_at=held.open.expires_at,
        rollover_cap_cents=held.open.rollover_cap_cents,
        movements=movements,
    )
