"""What Stripe's events about payers and their money do. Each fetches first, and answers what is then to be written.

The object is fetched as it is now, so that the order of events does not matter; every effect has a natural key or a row
of its own, so that no event counts twice.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.disputes import DisputeId
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.reversals import CreditNoteId, RefundId
from usage_tasks.domain.stripe_objects import EventFacts
from usage_tasks.services.disputes import reflect_dispute
from usage_tasks.services.payers import update_tax_state
from usage_tasks.services.reversals import reflect_credit_note, reflect_refund
from usage_tasks.services.sync import Transaction
from usage_tasks.storage import outbox, stripe_accounts
from usage_tasks.storage.inbox import InboxEvent
from usage_tasks.stripe_gateway.protocol import StripeGateway

ALERT: Final = "server.usage_alert_triggered"
_ACTOR: Final = Actor("service:stripe.apply_events")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Stripe to ask, the tables to look into, the prices that are ours, and billing time."""

    transaction: Transaction
    stripe: StripeGateway
    our_prices: frozenset[str]
    at: datetime


Write = Callable[[Connection], str]
Handler = Callable[[Ports, InboxEvent], Write]


def _dispute(ports: Ports, event: InboxEvent) -> Write:
    dispute = ports.stripe.get_dispute(DisputeId(_subject(event)))

    def write(connection: Connection) -> str:
        outcome = reflect_dispute(connection, dispute, at=ports.at, actor=_ACTOR)
        if outcome.status is None:
            return "not a customer of ours"
        return f"dispute is {outcome.status}: {outcome.blocked} blocked, {outcome.unblocked} let go"

    return write


def _refund(ports: Ports, event: InboxEvent) -> Write:
    refund = ports.stripe.get_refund(RefundId(_subject(event)))
    paid = None if refund.payment_intent_id is None else ports.stripe.find_invoice_of(refund.payment_intent_id)
    return partial(reflect_refund, refund=refund, invoice_id=paid, at=ports.at, actor=_ACTOR)


def _credit_note(ports: Ports, event: InboxEvent) -> Write:
    note = ports.stripe.get_credit_note(CreditNoteId(_subject(event)))
    invoice = ports.stripe.get_invoice(note.invoice_id)
    return partial(
        reflect_credit_note, note=note, invoice=invoice, our_prices=ports.our_prices, at=ports.at, actor=_ACTOR
    )


def _customer(ports: Ports, event: InboxEvent) -> Write:
    """Only a change of address can change where the customer is taxed."""
    facts = ports.stripe.get_event(event.event_id)
    if "address" not in facts.changed:
        return _nothing("the address did not change")
    customer_id = facts.customer_id
    if customer_id is None:
        raise PermanentError(f"event {event.event_id}: {event.type} without a customer")
    with ports.transaction() as connection:
        account = stripe_accounts.find_account(connection, customer_id)
    if account is None:
        return _nothing("not a customer of ours")
    done = update_tax_state(ports.transaction, ports.stripe, account, at=ports.at, actor=_ACTOR)
    return _nothing(f"automatic tax {'on' if done.automatic_tax else 'off'}: {done.updated} subscriptions changed")


def _alert(ports: Ports, event: InboxEvent) -> Write:
    return partial(_tell_alert, facts=ports.stripe.get_event(event.event_id), at=ports.at)


def _tell_alert(connection: Connection, facts: EventFacts, at: datetime) -> str:
    if facts.customer_id is None or facts.alert_id is None:
        raise PermanentError(f"event {facts.event_id}: {facts.type} without a customer or an alert")
    account = stripe_accounts.find_account(connection, facts.customer_id)
    if account is None:
        return "not a customer of ours"
    payload = {
        "attribution_id": account,
        "stripe_alert_id": facts.alert_id,
        "value": facts.value,
        "at": at.isoformat(),
    }
    key = f"{ALERT}:{facts.alert_id}:{account}"
    return "announced" if outbox.announce(connection, key=key, task=ALERT, payload=payload) else "known"


def _nothing(outcome: str) -> Write:
    return lambda _connection: outcome


def _subject(event: InboxEvent) -> str:
    if event.object_id is None:
        raise PermanentError(f"event {event.event_id}: {event.type} without the id of its object")
    return event.object_id


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
