from typing import Any

import pytest
import stripe

from tests.stripe_simulator.conftest import FIRST_END, START, Account

HOUR = 3600
DAY = 86400
HOLD = {"amount": 100, "currency": "usd", "capture_method": "manual", "setup_future_usage": "off_session"}


def customer(account: Account) -> str:
    return str(account.v1.customers.create({"email": "someone@example.com"}).id)


def held(account: Account, card: str = "pm_card_visa", **fields: Any) -> Any:
    """An amount that is held on a card."""
    intent = account.v1.payment_intents.create({**HOLD, "customer": customer(account), **fields})
    return account.v1.payment_intents.confirm(intent.id, {"payment_method": card})


def types(account: Account, *prefixes: str) -> list[str]:
    return [event["type"] for event in account.events(*prefixes)]


def test_a_hold_is_created_confirmed_and_released(account: Account) -> None:
    owner = customer(account)
    made = account.v1.payment_intents.create({**HOLD, "customer": owner, "allowed_payment_method_types": ["card"]})
    assert (made.status, made.amount_capturable) == ("requires_payment_method", 0)
    confirmed = account.v1.payment_intents.confirm(made.id, {"payment_method": "pm_card_visa"})
    assert (confirmed.status, confirmed.amount_capturable, confirmed.amount_received) == ("requires_capture", 100, 0)
    method = account.v1.payment_methods.retrieve(confirmed.payment_method)
    assert (method.customer, method.card.last4) == (owner, "4242")
    released = account.v1.payment_intents.cancel(made.id, {"cancellation_reason": "abandoned"})
    assert (released.status, released.amount_capturable) == ("canceled", 0)
    charge = account.v1.payment_intents.retrieve(made.id, {"expand": ["latest_charge"]}).latest_charge
    assert (charge.captured, charge.refunded) == (False, True)
    assert [one.id for one in account.v1.payment_intents.list({"customer": owner}).data] == [made.id]
    assert types(account, "payment_", "charge.") == [
        "payment_intent.created",
        "payment_method.attached",
        "charge.succeeded",
        "payment_intent.amount_capturable_updated",
        "charge.refunded",
        "payment_intent.canceled",
    ]


def test_what_is_over_cannot_be_released_or_taken_again(account: Account) -> None:
    intent = held(account)
    taken = account.v1.payment_intents.capture(intent.id, {"amount_to_capture": 60})
    assert (taken.status, taken.amount_received, taken.amount_capturable) == ("succeeded", 60, 0)
    for move in ("cancel", "capture", "confirm"):
        with pytest.raises(stripe.InvalidRequestError) as refused:
            getattr(account.v1.payment_intents, move)(intent.id)
        assert refused.value.code == "payment_intent_unexpected_state"


def test_a_hold_that_nobody_releases_ends_after_a_week(account: Account) -> None:
    intent = held(account)
    account.advance(START + 7 * DAY - 1)
    assert account.v1.payment_intents.retrieve(intent.id).status == "requires_capture"
    account.advance(START + 7 * DAY)
    ended = account.v1.payment_intents.retrieve(intent.id)
    assert (ended.status, ended.cancellation_reason) == ("canceled", "automatic")


@pytest.mark.parametrize(
    ("card", "code", "decline_code"),
    [
        ("pm_card_chargeDeclined", "card_declined", "generic_decline"),
        ("pm_card_visa_chargeDeclinedInsufficientFunds", "card_declined", "insufficient_funds"),
        ("pm_card_chargeDeclinedExpiredCard", "expired_card", "expired_card"),
        ("pm_card_chargeCustomerFail", "card_declined", "generic_decline"),
    ],
)
def test_a_decline_is_an_error_whose_effect_stands(account: Account, card: str, code: str, decline_code: str) -> None:
    intent = account.v1.payment_intents.create({**HOLD, "customer": customer(account)})
    for _ in range(2):  # the second is the stored reply
        with pytest.raises(stripe.CardError) as declined:
            account.v1.payment_intents.confirm(intent.id, {"payment_method": card}, {"idempotency_key": "confirm"})
        assert (declined.value.code, declined.value.http_status) == (code, 402)
        assert declined.value.error is not None
        assert declined.value.error.decline_code == decline_code
    after = account.v1.payment_intents.retrieve(intent.id)
    assert (after.status, after.last_payment_error.code) == ("requires_payment_method", code)
    assert types(account, "charge.", "payment_intent.") == [
        "payment_intent.created",
        "charge.failed",
        "payment_intent.payment_failed",
    ]
    confirmed = account.v1.payment_intents.confirm(intent.id, {"payment_method": "pm_card_visa"})
    assert (confirmed.status, confirmed.last_payment_error) == ("requires_capture", None)


@pytest.mark.parametrize(
    ("succeeds", "status"), [(True, "requires_capture"), (False, "requires_payment_method")], ids=str
)
def test_a_bank_may_ask_for_its_customer(account: Account, succeeds: object, status: str) -> None:
    intent = held(account, "pm_card_authenticationRequired")
    assert (intent.status, intent.next_action.type) == ("requires_action", "use_stripe_sdk")
    account.acts("payments/authenticate", payment_intent=intent.id, succeeds=succeeds)
    assert account.v1.payment_intents.retrieve(intent.id).status == status
    assert "payment_intent.requires_action" in types(account, "payment_intent.")


def test_off_session_nobody_can_be_asked(account: Account) -> None:
    intent = account.v1.payment_intents.create({**HOLD, "customer": customer(account)})
    with pytest.raises(stripe.CardError) as declined:
        account.v1.payment_intents.confirm(
            intent.id, {"payment_method": "pm_card_authenticationRequired", "off_session": True}
        )
    assert declined.value.code == "authentication_required"


def test_a_card_is_attached_made_the_default_and_detached(account: Account) -> None:
    owner, other = customer(account), customer(account)
    number = {"number": "4242424242424242", "exp_month": 1, "exp_year": 2040, "cvc": "123"}
    address = {"address": {"country": "DE"}}
    made = account.v1.payment_methods.create({"type": "card", "card": number, "billing_details": address})
    assert (made.customer, made.billing_details.address.country) == (None, "DE")
    default = {"invoice_settings": {"default_payment_method": made.id}}
    with pytest.raises(stripe.InvalidRequestError, match="does not have a payment method"):
        account.v1.customers.update(owner, default)
    for _ in range(2):
        assert account.v1.payment_methods.attach(made.id, {"customer": owner}).customer == owner
    with pytest.raises(stripe.InvalidRequestError, match="another customer"):
        account.v1.payment_methods.attach(made.id, {"customer": other})
    account.v1.customers.update(owner, default)
    shown = account.v1.customers.retrieve(owner, {"expand": ["invoice_settings.default_payment_method"]})
    assert shown.invoice_settings.default_payment_method.id == made.id
    account.v1.payment_methods.detach(made.id)
    assert account.v1.customers.retrieve(owner).invoice_settings.default_payment_method is None
    with pytest.raises(stripe.CardError):
        account.v1.payment_methods.attach("pm_card_chargeDeclined", {"customer": owner})
    with pytest.raises(stripe.InvalidRequestError, match="test cards only"):
        account.v1.payment_methods.create({"type": "card", "card": {**number, "number": "4111111111111111"}})
    assert types(account, "payment_method.") == ["payment_method.attached", "payment_method.detached"]


# Invoices


def invoiced(account: Account, card: str | None, used: str = "500") -> Any:
    """A customer with a card, and the finalized invoice of a month's usage."""
    subscription = account.subscribe(account.metered_price())
    if card is not None:
        method = account.v1.payment_methods.attach(card, {"customer": subscription.customer}).id
        settings = {"invoice_settings": {"default_payment_method": method}}
        account.v1.customers.update(subscription.customer, settings)
    account.report(subscription.customer, used, at=START)
    account.advance(FIRST_END + HOUR)
    return account.v1.invoices.list({"subscription": subscription.id}).data[0]


def test_an_invoice_is_paid_by_an_intent_that_leads_back_to_it(account: Account) -> None:
    invoice = invoiced(account, "pm_card_visa")
    assert (invoice.status, invoice.amount_paid, invoice.attempt_count) == ("paid", 500, 1)
    (payment,) = account.v1.invoice_payments.list({"invoice": invoice.id}).data
    intent = account.v1.payment_intents.retrieve(payment.payment.payment_intent)
    assert (payment.status, intent.status, intent.amount_received) == ("paid", "succeeded", 500)
    back = {"payment": {"type": "payment_intent", "payment_intent": intent.id}, "status": "paid"}
    assert [one.invoice for one in account.v1.invoice_payments.list(back).data] == [invoice.id]
    assert account.v1.invoice_payments.retrieve(payment.id).amount_paid == 500


def test_a_declined_invoice_stays_open_until_another_card_pays_it(account: Account) -> None:
    invoice = invoiced(account, "pm_card_chargeCustomerFail")
    assert (invoice.status, invoice.attempt_count, invoice.amount_remaining) == ("open", 1, 500)
    before = len(account.event_types())
    with pytest.raises(stripe.CardError):
        account.v1.invoices.pay(invoice.id)
    assert account.event_types()[before:] == [
        "charge.failed",
        "payment_intent.payment_failed",
        "invoice.payment_failed",
    ]
    paid = account.v1.invoices.pay(invoice.id, {"payment_method": "pm_card_visa"})
    assert (paid.status, paid.attempt_count, paid.amount_paid) == ("paid", 3, 500)
    assert account.v1.subscriptions.list({"customer": invoice.customer}).data[0].status == "active"
    intents = account.v1.payment_intents.list({"customer": invoice.customer}).data
    assert [one.status for one in intents] == ["succeeded"]
    with pytest.raises(stripe.InvalidRequestError, match="already paid"):
        account.v1.invoices.pay(invoice.id)


def test_an_invoice_whose_bank_asks_waits_for_its_customer(account: Account) -> None:
    invoice = invoiced(account, "pm_card_authenticationRequired")
    assert invoice.status == "open"
    assert [kind for kind in account.event_types() if kind.startswith("invoice.payment")] == [
        "invoice.payment_action_required",
        "invoice.payment_failed",
    ]
    (payment,) = account.v1.invoice_payments.list({"invoice": invoice.id}).data
    account.acts("payments/authenticate", payment_intent=payment.payment.payment_intent)
    assert account.v1.invoices.retrieve(invoice.id).status == "paid"


def test_an_invoice_paid_elsewhere_leaves_no_intent_open(account: Account) -> None:
    invoice = invoiced(account, "pm_card_chargeCustomerFail")
    paid = account.v1.invoices.pay(invoice.id, {"paid_out_of_band": True})
    assert (paid.status, paid.amount_paid, paid.amount_paid_off_stripe) == ("paid", 0, 500)
    assert account.v1.payment_intents.list({"customer": invoice.customer}).data[0].status == "canceled"


def test_a_preview_says_what_the_meter_knows_and_stores_nothing(account: Account) -> None:
    subscription = account.subscribe(account.metered_price(), account.flat_price(900))
    account.report(subscription.customer, "7", at=START)
    for asked in ({"customer": subscription.customer}, {"subscription": subscription.id}):
        preview = account.v1.invoices.create_preview(asked)
        assert (preview.total, preview.status, preview.period_end) == (907, "draft", FIRST_END)
    assert len(account.v1.invoices.list({"customer": subscription.customer}).data) == 1
    account.v1.subscriptions.cancel(subscription.id)
    with pytest.raises(stripe.InvalidRequestError) as nothing:
        account.v1.invoices.create_preview({"customer": subscription.customer})
    assert nothing.value.code == "invoice_upcoming_none"


# Tax


def test_tax_goes_off_where_the_customer_cannot_be_placed_any_more(account: Account) -> None:
    owner = account.v1.customers.create({"address": {"country": "DE"}}).id
    price = account.metered_price()
    taxed = {"customer": owner, "items": [{"price": price.id}], "automatic_tax": {"enabled": True}}
    subscription = account.v1.subscriptions.create(taxed)
    first = account.v1.invoices.list({"customer": owner}).data[0]
    assert (first.automatic_tax.enabled, first.automatic_tax.status) == (True, "complete")
    account.v1.customers.update(owner, {"address": ""})
    shown = account.v1.customers.retrieve(owner, {"expand": ["tax"]})
    assert shown.tax.automatic_tax == "unrecognized_location"
    account.advance(FIRST_END + HOUR)
    second = account.v1.invoices.list({"customer": owner}).data[0]
    assert (second.automatic_tax.enabled, second.automatic_tax.status) == (False, "requires_location_inputs")
    after = account.v1.subscriptions.retrieve(subscription.id).automatic_tax
    assert (after.enabled, after.disabled_reason) == (False, "requires_location_inputs")
    with pytest.raises(stripe.InvalidRequestError) as refused:
        account.v1.subscriptions.update(subscription.id, {"automatic_tax": {"enabled": True}})
    assert refused.value.code == "customer_tax_location_invalid"
    moved = [event for event in account.events("customer.updated") if event["data"]["previous_attributes"]]
    assert list(moved[-1]["data"]["previous_attributes"]) == ["address"]


@pytest.mark.parametrize(
    ("currency", "amount", "code"),
    [
        ("usd", 49, "amount_too_small"),
        ("usd", 50, None),
        ("gbp", 29, "amount_too_small"),
        ("jpy", 49, "amount_too_small"),
        ("jpy", 200, None),
        ("inr", 100, "amount_too_small"),
        ("inr", 10_000, None),
        ("kwd", 505, "parameter_invalid_integer"),
        ("kwd", 510, None),
        ("ugx", 500_050, "parameter_invalid_integer"),
        ("ugx", 500_000, None),
        ("czk", 1_499, "amount_too_small"),
        ("usd", 100_000_000, "amount_too_large"),
    ],
)
def test_an_amount_fits_its_currency(account: Account, currency: str, amount: int, code: str | None) -> None:
    asked = {"amount": amount, "currency": currency, "capture_method": "manual"}
    if code is None:
        assert account.v1.payment_intents.create(asked).amount == amount
        return
    with pytest.raises(stripe.InvalidRequestError) as refused:
        account.v1.payment_intents.create(asked)
    assert (refused.value.code, refused.value.param) == (code, "amount")
