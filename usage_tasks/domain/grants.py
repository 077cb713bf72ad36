"""Grants: credits that pay usage before the allowance, forgiveness or Stripe does, and lapse when their time is over.

Between settlements nothing is burnt: the balance that is shown is less by what the grants would pay now. A settlement
burns for good. Source: docs/adr/0011-grants.md.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.cost_centers import BillingStrategy, CostCenter
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvalidInputError

PRIORITY_MAX = 100
PRIORITY_DEFAULT = 50
_NEVER = datetime.max.replace(tzinfo=UTC)


class LapseReason(StrEnum):
    """Why the rest of a grant is gone: its time was over, or more was left than may go into the next cycle."""

    EXPIRY = "expiry"
    ROLLOVER = "rollover"


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantTerms:
    """Terms of a grant. Priority 0 burns first; without `expires_at` it lasts; without a cap all of it rolls over."""

    attribution_id: AttributionId
    key: str
    amount_cents: CreditCents
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    rollover_cap_cents: CreditCents | None
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenGrant:
    """A grant of which something is left, whatever the instant; `burnt_at` are the instants it paid at."""

    attribution_id: AttributionId
    number: int
    priority: int
    effective_at: datetime
    expires_at: datetime | None
    rollover_cap_cents: CreditCents | None
    remaining_cents: CreditCents
    burnt_at: Sequence[datetime] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Burn:
    """The effect of one settlement on one grant: cents that paid usage, cents that lapsed and why, cents left."""

    grant: OpenGrant
    burnt_cents: CreditCents
    lapsed_cents: CreditCents
    reason: LapseReason
    left_cents: CreditCents


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """An instant at which an account's grants pay for good what is open.

    `told_until` bounds the usage of ended periods that was reported to Stripe: Stripe bills it, so no grant pays it.
    """

    attribution_id: AttributionId
    at: datetime
    told_until: datetime
    ends_cycle: bool


def check_terms(terms: GrantTerms, *, at: datetime) -> None:
    """Raise InvalidInputError for terms that can never pay anything."""
    if terms.amount_cents <= 0:
        raise InvalidInputError("amount", terms.amount_cents, "above 0 cents (a charge is a credit note)")
    if not 0 <= terms.priority <= PRIORITY_MAX:
        raise InvalidInputError("priority", terms.priority, f"from 0 to {PRIORITY_MAX}")
    if terms.rollover_cap_cents is not None and terms.rollover_cap_cents < 0:
        raise InvalidInputError("rollover_cap", terms.rollover_cap_cents, "0 cents or more")
    earliest = max(terms.effective_at, at)
    if terms.expires_at is not None and terms.expires_at <= earliest:
        raise InvalidInputError("expires_at", terms.expires_at.isoformat(), f"later than {earliest.isoformat()}")


def next_settlement(current: CostCenter, grants: Iterable[OpenGrant], *, by: datetime) -> Settlement | None:
    """Return the next settlement due at or before `by`, or None: the end of an unpaid cycle, or a grant's expiry.

    Where both fall on one instant they are one settlement.
    """
    ends = [current.next_billing_at] if current.billing_strategy is BillingStrategy.OTHER else []
    instants = [*ends, *(grant.expires_at for grant in grants if grant.expires_at is not None)]
    if not instants or (at := min(instants)) > by:
        return None
    return Settlement(attribution_id=current.attribution_id, at=at, told_until=at, ends_cycle=at in ends)


def settle(grants: Iterable[OpenGrant], open_cents: int, *, at: datetime, ends_cycle: bool) -> list[Burn]:
    """Pay what is open from an account's grants, by priority, then expiry, then creation; let lapse what is over.

    A grant that takes effect at the very instant belongs to what follows, and one pays once an instant.
    """
    burns = []
    for grant in sorted((each for each in grants if each.effective_at < at), key=_burn_order):
        payable = 0 if at in grant.burnt_at else grant.remaining_cents
        burnt = max(0, min(open_cents, payable))
        open_cents -= burnt
        rest = grant.remaining_cents - burnt
        expired = grant.expires_at is not None and grant.expires_at <= at
        left = 0 if expired else _rolled_over(grant, rest) if ends_cycle else rest
        burns.append(
            Burn(
                grant=grant,
                burnt_cents=CreditCents(burnt),
                lapsed_cents=CreditCents(rest - left),
                reason=LapseReason.EXPIRY if expired else LapseReason.ROLLOVER,
                left_cents=CreditCents(left),
            )
        )
    return burns


def pay_now(grants: Iterable[OpenGrant], open_cents: int, *, at: datetime) -> list[Burn]:
    """Return the part of the open usage that each grant in force would pay if it were settled now."""
    in_force = [
        replace(each, burnt_at=())
        for each in grants
        if each.effective_at <= at and (each.expires_at is None or each.expires_at > at)
    ]
    just_after = at + timedelta(microseconds=1)
    return settle(in_force, open_cents, at=just_after, ends_cycle=False)


def _burn_order(grant: OpenGrant) -> tuple[int, datetime, int]:
    return grant.priority, grant.expires_at or _NEVER, grant.number


def _rolled_over(grant: OpenGrant, rest: int) -> int:
    return rest if grant.rollover_cap_cents is None else min(rest, grant.rollover_cap_cents)
