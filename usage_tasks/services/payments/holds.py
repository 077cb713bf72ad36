"""Hold a small amount on a card to check that it is good, and release it, whatever happens in between.

The row is stored before the call. A crash leaves an open row, which `release_due` finds. A hold that nobody confirmed
holds no money.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.currencies import get_currency
from usage_tasks.domain.customers import CUSTOMER_NEEDED
from usage_tasks.domain.errors import (
    DeclinedError,
    InvalidInputError,
    NoSuchError,
    NotFoundError,
    PermanentError,
    RetryableError,
    SpentKeyError,
)
from usage_tasks.domain.holds import HOLD_OPEN_MAX, Hold, PaymentIntentId
from usage_tasks.storage.engine import Transaction
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import customers, holds
from usage_tasks.storage.payments.holds import HoldRow
from usage_tasks.stripe_gateway.protocol import StripeGateway

CLAIM_LIMIT: Final = 4
LEASE: Final = timedelta(seconds=180)
"""Longer than CLAIM_LIMIT holds, each four calls that run into their time-outs (10 s)."""

_SWEEP: Final = Actor("service:billing.release_holds")
_ATTEMPTS_MAX: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedHolds:
    """How a run of releasing ended."""

    released: int
    retried: int
    failed: int


def create_hold(
    transaction: Transaction, stripe: StripeGateway, account: AttributionId, *, at: datetime, actor: Actor
) -> Hold:
    """Return an account's open hold, asked for now where there is none; the payer confirms it in their browser.

    Raises InvalidInputError for an account without a customer.
    """
    for _ in range(_ATTEMPTS_MAX):
        with transaction() as connection:
            customer = customers.find_customer(connection, account)
            if customer is None or customer.customer_id is None or customer.deleted:
                raise InvalidInputError(
                    "attribution_id",
                    account,
                    CUSTOMER_NEEDED,
                )
            row = holds.reserve_hold(connection, account, release_at=at + HOLD_OPEN_MAX)
        hold = _find(transaction, stripe, row, at=at, actor=actor)
        if hold is not None and not hold.is_over:
            return hold
        _settle(transaction, row, at=at, actor=actor)  # released elsewhere, for example by Stripe after a week
    raise RetryableError(f"hold: those of {account} are released as fast as they are made")


def _find(transaction: Transaction, stripe: StripeGateway, row: HoldRow, *, at: datetime, actor: Actor) -> Hold | None:
    """Return an open row's hold as it is now; None if there is none and a new one must be asked for.

    Nobody can confirm a hold whose answer was lost, so it holds nothing and may be given up.
    """
    try:
        if row.payment_intent_id is None:
            return _ask(transaction, stripe, row, at=at, actor=actor)
        return stripe.get_hold(row.payment_intent_id)
    except SpentKeyError:
        return None
    except NotFoundError:
        if row.payment_intent_id is None:
            raise
        return None


def _ask(transaction: Transaction, stripe: StripeGateway, row: HoldRow, *, at: datetime, actor: Actor) -> Hold:
    hold = stripe.create_hold(
        row.customer_id,
        amount=get_currency(row.currency).hold,
        currency=row.currency,
        idempotency_key=row.idempotency_key,
    )
    with transaction() as connection:
        if holds.complete_hold(connection, row, hold.payment_intent_id):
            audit.append_audit(
                connection,
                at=at,
                actor=actor,
                action="payment_hold.create",
                attribution_id=row.attribution_id,
                details={"number": row.number, "currency": row.currency},
            )
    return hold


def use_hold(
    transaction: Transaction,
    stripe: StripeGateway,
    account: AttributionId,
    payment_intent_id: PaymentIntentId,
    *,
    at: datetime,
    actor: Actor,
) -> None:
    """Make the card of a confirmed hold the account's own, and release the hold.

    Raises DeclinedError if the bank declined, InvalidInputError for a hold that is not confirmed or belongs to another
    account.
    """
    with transaction() as connection:
        row = holds.find_hold(connection, account, payment_intent_id)
    if row is None:
        raise NoSuchError("hold_payment_intent_id", payment_intent_id, f"hold of {account}")
    if not row.confirmed:
        hold = stripe.get_hold(payment_intent_id)
        _adopt(stripe, row, hold)
        with transaction() as connection:
            if holds.mark_confirmed(connection, row, at=at):
                audit.append_audit(
                    connection,
                    at=at,
                    actor=actor,
                    action="payment_hold.confirm",
                    attribution_id=account,
                    details={"number": row.number},
                )
    if not row.released:
        stripe.release_hold(payment_intent_id)
        _settle(transaction, row, at=at, actor=actor)


def _adopt(stripe: StripeGateway, row: HoldRow, hold: Hold) -> None:
    if hold.is_confirmed and hold.payment_method_id is not None:
        stripe.adopt_payment_method(row.customer_id, hold.payment_method_id)
        return
    if hold.decline_code is not None:
        raise DeclinedError(f"hold {hold.payment_intent_id}: declined, {hold.decline_code}", hold.decline_code)
    allowed = f"a hold that the payer has confirmed; its status is {hold.status}"
    raise InvalidInputError("hold_payment_intent_id", hold.payment_intent_id, allowed)


def release_due(transaction: Transaction, stripe: StripeGateway, *, at: datetime, limit: int) -> ReleasedHolds:
    """Release up to about `limit` holds that were left open. A failure delays no other hold."""
    released = retried = failed = 0
    while released + retried + failed < limit:
        with transaction() as connection:
            claimed = holds.claim_due(connection, at=at, limit=CLAIM_LIMIT, lease=LEASE)
        if not claimed:
            break
        for row in claimed:
            try:
                _release(transaction, stripe, row, at=at)
                released += 1
            except RetryableError:
                retried += 1  # until its lease ends
            except PermanentError:
                failed += 1
    return ReleasedHolds(released=released, retried=retried, failed=failed)


def _release(transaction: Transaction, stripe: StripeGateway, row: HoldRow, *, at: datetime) -> None:
    """Release a hold; if the answer to its call was lost, the same key gets it again."""
    try:
        if row.payment_intent_id is None:
            hold = _ask(transaction, stripe, row, at=at, actor=_SWEEP)
            stripe.release_hold(hold.payment_intent_id)
        else:
            stripe.release_hold(row.payment_intent_id)
    except (NotFoundError, SpentKeyError):
        pass  # with its customer, or it was never confirmed: there is nothing to release
    _settle(transaction, row, at=at, actor=_SWEEP)


def _settle(transaction: Transaction, row: HoldRow, *, at: datetime, actor: Actor) -> None:
    with transaction() as connection:
        if holds.mark_released(connection, row, at=at):
            audit.append_audit(
                connection,
                at=at,
                actor=actor,
                action="payment_hold.release",
                attribution_id=row.attribution_id,
                details={"number": row.number},
            )
