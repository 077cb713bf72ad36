"""The situations of the kill matrix: the initial state of each task of the queues billing and stripe."""

import json
from typing import Any, Final

from tests.factories import DAY, HOUR, LIMITS, SYSTEM, make_id, team, user
from tests.faults.kill_matrix import Case
from tests.stripe_world.bench import EMAIL, Bench
from tests.stripe_world.fixtures import BEGIN
from tests.stripe_world.population import charge_all
from tests.stripe_world.world import GRACE
from usage_tasks.domain.accounts import parse_attribution
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.cycles import add_months
from usage_tasks.services.inbox.parse_event import parse_event
from usage_tasks.services.ledger.cost_center import set_cost_center
from usage_tasks.services.payments.holds import create_hold
from usage_tasks.storage.inbox import events
from usage_tasks.stripe_simulator.state.world import THIN_EVENT

ACCOUNT = team("killed")
NOON = BEGIN + 2 * HOUR
PERIOD_END = add_months(BEGIN, 1)
FINALIZED = PERIOD_END + GRACE
ENDED = BEGIN + 10 * DAY
GERMANY: Final = {"country": "DE", "city": "Berlin"}
_OWNED: Final = {"attribution_id": ACCOUNT, "actor": SYSTEM}


def _at(at: Any, **arguments: Any) -> dict[str, Any]:
    return {**arguments, "at": at.isoformat()}


def _unknown(_bench: Bench) -> dict[str, Any]:
    new = {"email": EMAIL, "name": "Some One", "currency": "usd", "billing_creator_user_id": str(make_id("creator"))}
    return _at(BEGIN, **_OWNED, **new)


def _only_in_stripe(bench: Bench) -> dict[str, Any]:
    told = {"attributionId": ACCOUNT, "preferredCurrency": "eur", "billingCreatorUserId": "creator"}
    bench.world.v1.customers.create({"metadata": told})
    return _at(BEGIN, **_OWNED)


def _gone(bench: Bench) -> dict[str, Any]:
    bench.world.v1.customers.delete(bench.pay(ACCOUNT))
    bench.handle_all(BEGIN)
    return _unknown(bench)


def _customer(bench: Bench) -> dict[str, Any]:
    bench.use(ACCOUNT, 7, until=BEGIN - HOUR)
    bench.customer(ACCOUNT)
    return _at(BEGIN, **_OWNED)


def _placed_customer(bench: Bench) -> dict[str, Any]:
    bench.world.v1.customers.update(bench.customer(ACCOUNT), {"address": GERMANY})
    return _at(BEGIN, **_OWNED)


def _already_on_stripe(bench: Bench) -> dict[str, Any]:
    with bench.transaction() as connection:
        set_cost_center(
            connection,
            parse_attribution(ACCOUNT),
            strategy=BillingStrategy.STRIPE,
            spending_limit=10,
            expected_version=None,
            limits=LIMITS,
            at=BEGIN - 3 * DAY,
            actor=SYSTEM,
        )
    return _customer(bench)


def _held(bench: Bench, *, confirmed: bool = True) -> str:
    bench.customer(ACCOUNT)
    made = create_hold(bench.transaction, bench.stripe, ACCOUNT, at=BEGIN, actor=SYSTEM).payment_intent_id
    if confirmed:
        number = {"number": "4242424242424242", "exp_month": 1, "exp_year": 2040, "cvc": "123"}
        card = {"type": "card", "card": number, "billing_details": {"address": GERMANY}}
        method = bench.world.v1.payment_methods.create(card).id
        bench.world.v1.payment_intents.confirm(made, {"payment_method": method})
    return made


def _confirmed_hold(bench: Bench) -> dict[str, Any]:
    return _at(BEGIN, **_OWNED, hold_payment_intent_id=_held(bench))


def _hold_let_go_elsewhere(bench: Bench) -> dict[str, Any]:
    bench.world.v1.payment_intents.cancel(_held(bench))
    return _at(BEGIN, **_OWNED)


def _hold_left_open(bench: Bench) -> dict[str, Any]:
    _held(bench)
    return _at(BEGIN + 2 * HOUR)


def _hold_unheard(bench: Bench) -> dict[str, Any]:
    _held(bench, confirmed=False)
    bench.execute("UPDATE payment_hold SET stripe_payment_intent_id = NULL")
    return _at(BEGIN + 2 * HOUR)


def _paying(bench: Bench) -> dict[str, Any]:
    bench.pay(ACCOUNT)
    return dict(_OWNED)


def _moved(bench: Bench) -> dict[str, Any]:
    bench.world.v1.customers.update(bench.pay(ACCOUNT), {"address": GERMANY})
    return _at(BEGIN, **_OWNED)


def _disputed(bench: Bench) -> dict[str, Any]:
    asked = {"amount": 1000, "currency": "usd", "customer": bench.customer(user("anna")), "confirm": True}
    bench.world.v1.payment_intents.create({**asked, "payment_method": "pm_card_createDispute"})
    (dispute,) = bench.world.v1.disputes.list({}).data
    return _at(BEGIN, dispute_id=dispute.id, actor=SYSTEM)


def _untold(bench: Bench) -> dict[str, Any]:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 9, until=BEGIN + HOUR)
    bench.world.advance(NOON)
    return _at(NOON)


def _scheduled(bench: Bench) -> dict[str, Any]:
    return {**_untold(bench), "scheduled": True}


def _told(bench: Bench) -> dict[str, Any]:
    bench.crowd(3, at=NOON)
    return {}


def _drafted(bench: Bench) -> str:
    """An account whose first month is a draft, of which Stripe knows 9 of 12 credits; return the invoice."""
    customer = bench.pay(ACCOUNT)
    bench.world.v1.customers.update(customer, {"invoice_settings": {"default_payment_method": _card(bench, customer)}})
    bench.use(ACCOUNT, 9, until=BEGIN + HOUR)
    bench.sync_and_send(NOON)
    bench.handle_all(NOON)
    bench.use(ACCOUNT, 3, until=PERIOD_END - HOUR)
    bench.world.advance(PERIOD_END)
    return str(bench.world.invoices()[-1].id)


def _card(bench: Bench, customer: str) -> str:
    return str(bench.world.v1.payment_methods.attach("pm_card_visa", {"customer": customer}).id)


def _invoiced(bench: Bench) -> str:
    """The same, finalized and paid over the quantity that Stripe got in time; none of its events has arrived."""
    invoice = _drafted(bench)
    bench.world.advance(PERIOD_END)
    bench.sync(PERIOD_END)
    bench.send()
    bench.world.advance(FINALIZED)
    return invoice


def _lost_events(bench: Bench) -> dict[str, Any]:
    _invoiced(bench)
    bench.world.new_events()
    return _at(FINALIZED)


def _draft_to_finalize(bench: Bench) -> dict[str, Any]:
    return _at(PERIOD_END, **_OWNED, stripe_invoice_id=_drafted(bench))


def _to_cancel(bench: Bench) -> dict[str, Any]:
    bench.pay(ACCOUNT)
    bench.use(ACCOUNT, 12, until=ENDED - HOUR)
    bench.world.advance(ENDED)
    return _at(ENDED, **_OWNED)


def _uncounted(bench: Bench) -> dict[str, Any]:
    customers = bench.crowd(2, at=NOON)
    bench.world.switch("meters", reject={next(iter(customers.values())): "meter_event_customer_not_found"})
    bench.send()
    bench.world.switch("meters", reject={})
    return _at(NOON + 3 * HOUR, fix=True)


def _unreported(bench: Bench) -> dict[str, Any]:
    bench.crowd(1, at=NOON)
    bench.send()
    with bench.transaction() as connection:
        charge_all(connection, 100, at=NOON + HOUR)
    bench.world.advance(NOON + 9 * HOUR)
    return _at(NOON + 9 * HOUR, fix=True)


def _doubted(bench: Bench) -> dict[str, Any]:
    _uncounted(bench)
    bench.world.advance(NOON + 3 * HOUR)
    bench.execute("UPDATE meter_report SET doubted_at = clock_timestamp()")
    return {}


def _parked(bench: Bench) -> dict[str, Any]:
    (account,) = bench.crowd(1, at=NOON)
    bench.execute("UPDATE meter_report SET state = 'parked', error = 'for this test', parked_at = clock_timestamp()")
    return _at(NOON, attribution_id=account, actor=SYSTEM)


def _dunned(bench: Bench) -> dict[str, Any]:
    bench.world.decline(bench.pay(ACCOUNT))
    bench.use(ACCOUNT, 9, until=BEGIN + HOUR)
    bench.sync_and_send(NOON)
    bench.world.advance(FINALIZED)
    bench.handle_all(FINALIZED)
    return _at(FINALIZED + 10 * DAY)


def _arrived(bench: Bench, *types: str) -> dict[str, Any]:
    """Put Stripe's new events of some types into the inbox, which has no other pending event."""
    taken = [event for event in bench.world.new_events() if event.type in types]
    assert {event.type for event in taken} == set(types)
    for event in taken:
        bench.store(event)
    return {}


def _draft_arrives(bench: Bench) -> dict[str, Any]:
    _drafted(bench)
    return _arrived(bench, "invoice.created")


def _payment_arrives(bench: Bench) -> dict[str, Any]:
    _invoiced(bench)
    return _arrived(bench, "invoice.created", "invoice.finalized", "invoice.paid")


def _subscription_arrives(bench: Bench) -> dict[str, Any]:
    bench.pay(ACCOUNT)
    bench.world.new_events()
    bench.use(ACCOUNT, 12, until=BEGIN + HOUR)
    bench.sync_and_send(NOON)
    bench.world.v1.subscriptions.cancel(bench.world.subscriptions()[0].id, {"invoice_now": True})
    bench.world.advance(NOON + GRACE)
    return _arrived(bench, "customer.subscription.deleted", "invoice.created", "invoice.finalized")


def _customer_goes(bench: Bench) -> dict[str, Any]:
    customer = bench.pay(ACCOUNT)
    bench.world.new_events()
    bench.world.v1.customers.delete(customer)
    return _arrived(bench, "customer.deleted", "customer.subscription.deleted")


def _customer_moves(bench: Bench) -> dict[str, Any]:
    customer = bench.pay(ACCOUNT)
    bench.world.new_events()
    bench.world.v1.customers.update(customer, {"address": GERMANY})
    return _arrived(bench, "customer.updated")


def _dispute_arrives(bench: Bench) -> dict[str, Any]:
    _disputed(bench)
    return _arrived(bench, "charge.dispute.created")


def _money_comes_back(bench: Bench) -> dict[str, Any]:
    invoice_id = _invoiced(bench)
    bench.handle_all(FINALIZED)
    bench.world.new_events()
    invoice = bench.world.v1.invoices.retrieve(invoice_id)
    line = {"type": "invoice_line_item", "invoice_line_item": invoice.lines.data[0].id, "amount": 6}
    bench.world.v1.credit_notes.create({"invoice": invoice_id, "lines": [line], "refund_amount": 6})
    return _arrived(bench, "credit_note.created", "refund.created")


def _alert_arrives(bench: Bench) -> dict[str, Any]:
    bench.pay(ACCOUNT)
    threshold = {"gte": 5, "meter": bench.world.meter_id, "recurrence": "one_time"}
    bench.world.v1.billing.alerts.create(
        {"alert_type": "usage_threshold", "title": "Much", "usage_threshold": threshold}
    )
    bench.use(ACCOUNT, 7, until=BEGIN + HOUR)
    bench.sync_and_send(NOON)
    return _arrived(bench, "billing.alert.triggered")


def _complaint_arrives(bench: Bench) -> dict[str, Any]:
    """Two accounts whose events Stripe accepted and did not count: one error is permanent, one passes."""
    bad, late = bench.crowd(2, at=NOON).values()
    bench.world.switch("meters", reject={bad: "meter_event_customer_not_found", late: "archived_meter"})
    bench.send()
    bench.world.switch("meters", reject={})
    with bench.world.server.simulator.world() as world:
        told = list(world.store.scan(THIN_EVENT))
    for event in told:
        with bench.transaction() as connection:
            events.store_event(connection, parse_event(event["id"], json.dumps(event)))
    return {}


def _events_never_came(bench: Bench) -> dict[str, Any]:
    _told(bench)
    return {}


def _events_are_gone(bench: Bench) -> dict[str, Any]:
    """The last complete pass over the list was 40 days ago."""
    _told(bench)
    since = "INSERT INTO stripe_walk (name, since) VALUES ('events', :since), ('thin events', :since)"
    bench.execute(since, since=bench.now() - 40 * DAY)
    return {}


def _parked_event(bench: Bench) -> dict[str, Any]:
    _draft_arrives(bench)
    bench.execute("UPDATE stripe_event SET state = 'parked', outcome = 'for this test' WHERE state = 'pending'")
    return {"actor": SYSTEM, "all_parked": True, "dry_run": False}


def _hopeless_event(bench: Bench) -> dict[str, Any]:
    return {**_parked_event(bench), "reason": "for this test"}


def _event(_bench: Bench) -> dict[str, Any]:
    event = {"id": "evt_1", "type": "invoice.created", "created": 1, "data": {"object": {"id": "in_1"}}}
    return {"event_id": "evt_1", "payload": json.dumps(event)}


CASES: Final = (
    Case(task="billing.create_stripe_customer", situation="no customer yet", arrange=_unknown,
         effects={"stripe:customer": 1, "stripe_customer": 1, "audit": 1}),
    Case(task="billing.create_stripe_customer", situation="the one before was deleted", arrange=_gone,
         effects={"stripe_customer": 1}),
    Case(task="billing.create_stripe_subscription", situation="an open balance of 7 credits", arrange=_customer,
         effects={"stripe:subscription": 1, "stripe_subscription": 1}),
    Case(task="billing.create_stripe_subscription", situation="a customer who can be placed", arrange=_placed_customer,
         effects={"stripe:subscription": 1, "stripe_subscription": 1}),
    Case(task="billing.create_stripe_subscription", situation="on stripe already", arrange=_already_on_stripe,
         effects={"stripe:subscription": 1, "stripe_subscription": 1}),
    Case(task="billing.create_stripe_subscription", situation="with a confirmed hold", arrange=_confirmed_hold,
         effects={"stripe:subscription": 1, "stripe:payment_intent": 1, "payment_hold": 1},
         noted_again=("customer.updated",)),
    Case(task="billing.get_stripe_customer", situation="only in Stripe", arrange=_only_in_stripe,
         effects={"stripe:customer": 1, "stripe_customer": 1, "audit": 1}),
    Case(task="billing.create_hold_payment_intent", situation="no hold yet", arrange=_customer,
         effects={"stripe:payment_intent": 1, "payment_hold": 1}),
    Case(task="billing.create_hold_payment_intent", situation="one that Stripe let go", arrange=_hold_let_go_elsewhere,
         effects={"stripe:payment_intent": 2, "payment_hold": 2}),
    Case(task="billing.release_holds", situation="a confirmed one left open", arrange=_hold_left_open,
         effects={"stripe:payment_intent": 1, "payment_hold": 1}),
    Case(task="billing.release_holds", situation="one whose answer was lost", arrange=_hold_unheard,
         effects={"stripe:payment_intent": 1, "payment_hold": 1}),
    Case(task="billing.update_customer_subscriptions_tax_state", situation="the customer moved", arrange=_moved,
         effects={"stripe:subscription": 1}, noted_again=("stripe_subscription.automatic_tax",)),
    Case(task="billing.get_price_information", situation="a customer", arrange=_paying),
    Case(task="billing.preview_invoice", situation="a subscription", arrange=_paying),
    Case(task="billing.on_charge_dispute", situation="a new dispute", arrange=_disputed,
         effects={"stripe_dispute": 1, "outbox": 1}),
    Case(task="billing.send_meter_events", situation="three reports", arrange=_told,
         effects={"stripe:meter_event": 3, "meter_report": 3}, waits=True),
    Case(task="billing.reconcile_invoices", situation="no event of it came", arrange=_lost_events,
         effects={"stripe_invoice": 2, "stripe:invoice": 2}),
    Case(task="billing.finalize_invoice", situation="a draft, 3 of 12 credits untold", arrange=_draft_to_finalize,
         effects={"stripe_action": 1, "stripe:invoice": 2, "stripe:meter_event": 2},
         then="billing.reconcile_invoices"),
    Case(task="billing.cancel_subscription", situation="12 credits untold", arrange=_to_cancel,
         effects={"stripe_action": 1, "stripe:invoice": 2, "stripe:meter_event": 1, "ledger_entry": 3},
         then="billing.send_meter_events", bills=True),
    Case(task="billing.drift_report", situation="fix: a report not counted", arrange=_uncounted,
         effects={"meter_report": 2}),
    Case(task="billing.drift_report", situation="fix: usage not reported", arrange=_unreported,
         effects={"meter_report": 2}),
    Case(task="billing.settle_doubts", situation="a report not counted", arrange=_doubted,
         effects={"meter_report": 2}),
    Case(task="stripe.apply_events", situation="a draft, 3 of 12 credits untold", arrange=_draft_arrives,
         effects={"stripe_invoice": 2, "meter_report": 2}),
    Case(task="stripe.apply_events", situation="an invoice drafted, finalized, paid", arrange=_payment_arrives,
         effects={"stripe_invoice": 2}),
    Case(task="stripe.apply_events", situation="a subscription and its last invoice", arrange=_subscription_arrives,
         effects={"stripe_subscription": 1}),
    Case(task="stripe.apply_events", situation="a customer deleted", arrange=_customer_goes,
         effects={"stripe_subscription": 1}),
    Case(task="stripe.apply_events", situation="a customer who moved", arrange=_customer_moves,
         effects={"stripe:subscription": 1}, noted_again=("stripe_subscription.automatic_tax",)),
    Case(task="stripe.apply_events", situation="a dispute", arrange=_dispute_arrives,
         effects={"stripe_dispute": 1, "outbox": 1}),
    Case(task="stripe.apply_events", situation="a credit note and its refund", arrange=_money_comes_back,
         effects={"stripe_refund": 1}),
    Case(task="stripe.apply_events", situation="an alert", arrange=_alert_arrives, effects={"outbox": 1}),
    Case(task="stripe.apply_events", situation="a meter's complaint of two accounts", arrange=_complaint_arrives,
         effects={"meter_report": 2}),
    Case(task="stripe.backfill_events", situation="no event came", arrange=_events_never_came),
    Case(task="stripe.backfill_events", situation="the events are gone", arrange=_events_are_gone,
         effects={"audit": 1}),
    Case(task="stripe.replay_events", situation="a parked event", arrange=_parked_event, effects={"meter_report": 1}),
    Case(task="stripe.drop_events", situation="a parked event", arrange=_hopeless_event, effects={"meter_report": 1}),
    Case(task="stripe.receive_event", situation="a new event", arrange=_event, effects={"stripe_event": 1}),
    Case(task="billing.sync", situation="9 credits untold", arrange=_untold, effects={"meter_report": 1}),
    Case(task="billing.sync", situation="9 credits untold, as scheduled", arrange=_scheduled,
         effects={"meter_report": 1}),
    Case(task="billing.advance_dunning", situation="a payment ten days late", arrange=_dunned, effects={"dunning": 1}),
    Case(task="billing.list_parked", situation="any", arrange=lambda _bench: {"actor": SYSTEM}),
    Case(task="billing.release_parked", situation="a parked account", arrange=_parked, effects={"meter_report": 1}),
)  # fmt: skip

NO_CALL: Final = frozenset(
    {
        "billing.advance_dunning",
        "billing.list_parked",
        "billing.release_parked",
        "billing.sync",
        "stripe.drop_events",
        "stripe.receive_event",
        "stripe.replay_events",
    }
)
"""The tasks that call nothing at Stripe: killed at their commits only."""
