"""charge.dispute.*, refund.*, credit_note.*, billing.alert.triggered, customer.updated: payers and their money."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.announcements import UsageAlertTriggered
from usage_tasks.domain.disputes import DisputeId
from usage_tasks.domain.errors import NotFoundError, PermanentError
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.domain.reversals import CreditNoteId, RefundId
from usage_tasks.domain.stripe_objects import EventFacts
from usage_tasks.services.payments.context import Handler, StripeContext, Write, subject_of
from usage_tasks.services.payments.customers import update_tax_state
from usage_tasks.services.payments.reflect_dispute import reflect_dispute
from usage_tasks.services.payments.reflect_invoice import Effect
from usage_tasks.services.payments.reflect_reversals import reflect_credit_note, reflect_refund
from usage_tasks.storage.inbox.events import InboxEvent
from usage_tasks.storage.operations import outbox
from usage_tasks.storage.payments import customers

_ACTOR: Final = Actor("service:stripe.apply_events")


def _dispute(context: StripeContext, event: InboxEvent) -> Write:
    dispute = context.stripe.get_dispute(DisputeId(subject_of(event)))

    def write(connection: Connection) -> str:
        outcome = reflect_dispute(connection, dispute, at=context.at, actor=_ACTOR)
        if outcome.status is None:
            return "not a customer of ours"
        return f"dispute is {outcome.status}: {outcome.blocked} blocked, {outcome.unblocked} let go"

    return _told(write)


def _refund(context: StripeContext, event: InboxEvent) -> Write:
    refund = context.stripe.get_refund(RefundId(subject_of(event)))
    paid = None if refund.payment_intent_id is None else context.stripe.find_invoice_of(refund.payment_intent_id)
    return _told(partial(reflect_refund, refund=refund, invoice_id=paid, at=context.at, actor=_ACTOR))


def _credit_note(context: StripeContext, event: InboxEvent) -> Write:
    note = context.stripe.get_credit_note(CreditNoteId(subject_of(event)))
    invoice = context.stripe.get_invoice(note.invoice_id)
    ours = context.terms.our_prices
    return _told(partial(reflect_credit_note, note=note, invoice=invoice, our_prices=ours, at=context.at, actor=_ACTOR))


def _customer(context: StripeContext, event: InboxEvent) -> Write:
    """Only a change of address can change where the customer is taxed; what Stripe forgot may have been one."""
    try:
        facts = context.stripe.get_event(event.event_id)
    except NotFoundError:
        customer_id = StripeCustomerId(subject_of(event))
    else:
        if "address" not in facts.changed:
            return _nothing("the address did not change")
        customer_id = facts.customer_id or StripeCustomerId(subject_of(event))
    with context.transaction() as connection:
        account = customers.find_account(connection, customer_id)
    if account is None:
        return _nothing("not a customer of ours")
    done = update_tax_state(context.transaction, context.stripe, account, at=context.at, actor=_ACTOR)
    return _nothing(f"automatic tax {'on' if done.automatic_tax else 'off'}: {done.updated} subscriptions changed")


def _alert(context: StripeContext, event: InboxEvent) -> Write:
    return _told(partial(_tell_alert, facts=context.stripe.get_event(event.event_id), at=context.at))


def _tell_alert(connection: Connection, facts: EventFacts, at: datetime) -> str:
    if facts.customer_id is None or facts.alert_id is None:
        raise PermanentError(f"event {facts.event_id}: {facts.type} without a customer or an alert")
    account = customers.find_account(connection, facts.customer_id)
    if account is None:
        return "not a customer of ours"
    message = UsageAlertTriggered(attribution_id=account, stripe_alert_id=facts.alert_id, value=facts.value, at=at)
    new = outbox.announce(connection, message, once_per=f"{facts.alert_id}:{account}")
    return "announced" if new else "known"


def _told(write: Callable[[Connection], str]) -> Write:
    return lambda connection: Effect(outcome=write(connection))


def _nothing(outcome: str) -> Write:
    return lambda _connection: Effect(outcome=outcome)


HANDLERS: Final[Mapping[str, Handler]] = {
    **{
        f"charge.dispute.{what}": _dispute
        for what in ("created", "updated", "closed", "funds_withdrawn", "funds_reinstated")
    },
    **{f"refund.{what}": _refund for what in ("created", "updated", "failed")},
    **{f"credit_note.{what}": _credit_note for what in ("created", "voided")},
    "customer.updated": _customer,
    "billing.alert.triggered": _alert,
}
