"""Actions of an operator in Stripe: finalize a draft now, end a subscription now.

Each action is a row with its idempotency key before the call, leased by one worker during it, and settled after it
together with its effect in the ledger. A crash anywhere leaves an open row: another request, or the sweep, takes it up
with the same key. A refused action is settled with Stripe's reason, under the lease of the refused call alone; the next
request is a new action under a new key.
"""

from datetime import timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.errors import (
    InvalidInputError,
    NoSuchError,
    PermanentError,
    RetryableError,
    SpentKeyError,
    StaleEpochError,
)
from usage_tasks.domain.payments import InvoiceStatus, StripeInvoiceId, StripeOperation, StripeSubscriptionId
from usage_tasks.services.metering.decide_reports import report_quantities
from usage_tasks.services.metering.send_reports import send_reports
from usage_tasks.services.payments.context import StripeContext
from usage_tasks.services.payments.reflect_invoice import Effect, reflect_invoice
from usage_tasks.services.payments.reflect_subscription import look_at_subscription, reflect_subscription
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import invoices, operator_actions, subscriptions
from usage_tasks.storage.payments.operator_actions import Action

LEASE: Final = timedelta(seconds=90)
"""Longer than the calls of one action, each running into its time-out (10 s)."""

SEND_LIMIT: Final = 50
RESUME_LIMIT: Final = 20


def finalize_invoice(
    context: StripeContext, account: AttributionId, invoice_id: StripeInvoiceId, *, actor: Actor
) -> Effect:
    """Finalize an account's draft now, once its closing quantity is in Stripe; a final invoice is only reflected.

    Raises InvalidInputError for an unknown invoice or an invoice of another account.
    """
    invoice = context.stripe.get_invoice(invoice_id)
    with context.transaction() as connection:
        owner = None
        if invoice.subscription_id is not None:
            owner = subscriptions.find_subscription(connection, invoice.subscription_id)
        if owner is None or owner.attribution_id != account:
            raise NoSuchError("stripe_invoice_id", invoice_id, f"invoice of {account}")
        if invoice.status is not InvoiceStatus.DRAFT:
            return reflect_invoice(connection, invoice, terms=context.terms, at=context.at)
        operation = StripeOperation.FINALIZE_INVOICE
        action = operator_actions.reserve_action(connection, account, operation, invoice_id, actor=actor)
    return perform(context, action)


def cancel_subscription(context: StripeContext, account: AttributionId, *, actor: Actor) -> Effect:
    """End an account's subscription now, with a last invoice. The account leaves stripe once that invoice is booked.

    A subscription that has ended and waits for its last invoice stays as it is.
    Raises InvalidInputError for an account without an open subscription.
    """
    with context.transaction() as connection:
        held = subscriptions.find_open(connection, account)
        if held is None:
            raise InvalidInputError("attribution_id", account, "an account with an open subscription")
        if held.stripe_ended_at is not None:
            return Effect(outcome="subscription ended before")
        operation = StripeOperation.CANCEL_SUBSCRIPTION
        action = operator_actions.reserve_action(connection, account, operation, held.subscription_id, actor=actor)
    return perform(context, action)


def resume_open(context: StripeContext) -> tuple[int, int, list[tuple[str, str]]]:
    """Take up actions that a worker left open. Return the number done, the number postponed, and the failures."""
    with context.transaction() as connection:
        left = operator_actions.list_open(connection, limit=RESUME_LIMIT)
    done, waiting, failed = 0, 0, []
    for action in left:
        try:
            perform(context, action)
            done += 1
        except RetryableError:
            waiting += 1
        except StaleEpochError:
            raise  # another run does the work
        except PermanentError as error:
            failed.append((action.idempotency_key, str(error)))
    return done, waiting, failed


def perform(context: StripeContext, action: Action) -> Effect:
    """Make an open action's call and settle it; raise RetryableError if another worker is at it."""
    try:
        _prepare(context, action)
    except PermanentError as error:
        with context.transaction() as connection:
            free = operator_actions.claim_action(connection, action, lease=LEASE)
            if free is not None:  # else it is for the worker at it to settle
                operator_actions.settle_refused(connection, free, error=str(error))
        raise
    with context.transaction() as connection:
        claimed = operator_actions.claim_action(connection, action, lease=LEASE)
    if claimed is None:
        raise RetryableError(f"stripe action {action.idempotency_key}: another worker is at it")
    try:
        match claimed.operation:
            case StripeOperation.FINALIZE_INVOICE:
                return _finalize(context, claimed, StripeInvoiceId(claimed.object_id))
            case StripeOperation.CANCEL_SUBSCRIPTION:
                return _cancel(context, claimed, StripeSubscriptionId(claimed.object_id))
    except RetryableError:
        with context.transaction() as connection:
            operator_actions.release_action(connection, claimed)
        raise
    except PermanentError as error:
        with context.transaction() as connection:
            operator_actions.settle_refused(connection, claimed, error=str(error))
        raise


def _prepare(context: StripeContext, action: Action) -> None:
    """Bring into Stripe what the invoice to come is to bill; raise RetryableError while it is not there."""
    if action.operation is StripeOperation.CANCEL_SUBSCRIPTION:
        # The usage up to now is reported before the end; the draft of the last invoice brings the rest, to the second.
        with context.transaction() as connection:
            report_quantities(connection, at=context.at - timedelta(seconds=2), only=action.attribution_id)
        send_reports(context.transaction, context.stripe, limit=SEND_LIMIT)
        return
    invoice = context.stripe.get_invoice(StripeInvoiceId(action.object_id))
    if invoice.status is not InvoiceStatus.DRAFT:
        return
    with context.transaction() as connection:
        reflect_invoice(connection, invoice, terms=context.terms, at=context.at)
    send_reports(context.transaction, context.stripe, limit=SEND_LIMIT)
    with context.transaction() as connection:
        if invoices.has_unsent_quantity(connection, action.attribution_id, before=invoice.period_end):
            raise RetryableError(f"invoice {invoice.invoice_id}: its closing quantity is not in Stripe yet")


def _finalize(context: StripeContext, action: Action, invoice_id: StripeInvoiceId) -> Effect:
    invoice = context.stripe.get_invoice(invoice_id)
    if invoice.status is InvoiceStatus.DRAFT:
        try:
            context.stripe.finalize_invoice(invoice_id, idempotency_key=action.idempotency_key)
        except SpentKeyError as error:
            # It is still a draft: the key was used for something else.
            with context.transaction() as connection:
                operator_actions.renew_key(connection, action)
            raise RetryableError(str(error)) from error
        invoice = context.stripe.get_invoice(invoice_id)
    with context.transaction() as connection:
        effect = reflect_invoice(connection, invoice, terms=context.terms, at=context.at)
        _settle(connection, context, action)
    return effect


def _cancel(context: StripeContext, action: Action, subscription_id: StripeSubscriptionId) -> Effect:
    context.stripe.cancel_subscription(subscription_id)
    look = look_at_subscription(context.stripe, subscription_id)
    with context.transaction() as connection:
        effect = reflect_subscription(connection, look, terms=context.terms, at=context.at)
        _settle(connection, context, action)
    return effect


def _settle(connection: Connection, context: StripeContext, action: Action) -> None:
    if not operator_actions.settle_done(connection, action):
        return
    audit.append_audit(
        connection,
        at=context.at,
        actor=action.actor,
        action=f"stripe.{action.operation}",
        attribution_id=action.attribution_id,
        details={"object_id": action.object_id, "idempotency_key": action.idempotency_key},
    )
