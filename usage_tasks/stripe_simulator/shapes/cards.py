"""Stripe's test cards: what each does when it is attached, charged, disputed or refunded.

A card is named by its number or by the payment method that Stripe keeps for tests. Source: docs.stripe.com/testing.
"""

from dataclasses import dataclass

from usage_tasks.stripe_simulator.wire.errors import ApiError


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One card, and how its bank behaves."""

    number: str
    brand: str = "visa"
    code: str | None = None
    """Why each charge is declined, as Stripe's error code; None: it isn't."""
    decline_code: str | None = None
    attaches: bool = True
    authenticates: bool = False
    """Each payment needs the customer's authentication, even if the card was set up before."""
    dispute: str | None = None
    """The reason of the dispute that follows a charge."""
    inquiry: bool = False
    refund: str | None = None
    """The result of a refund a minute later: `failed`, or `succeeded` if it was pending."""

    @property
    def last4(self) -> str:
        return self.number[-4:]


def _declined(number: str, decline_code: str, *, code: str = "card_declined") -> Card:
    return Card(number=number, code=code, decline_code=decline_code, attaches=False)


_VISA = Card(number="4242424242424242")
_GENERIC = _declined("4000000000000002", "generic_decline")
_CUSTOMER_FAIL = Card(number="4000000000000341", code="card_declined", decline_code="generic_decline")

BY_NAME = {
    "pm_card_visa": _VISA,
    "pm_card_mastercard": Card(number="5555555555554444", brand="mastercard"),
    "pm_card_amex": Card(number="378282246310005", brand="amex"),
    "pm_card_chargeDeclined": _GENERIC,
    "pm_card_visa_chargeDeclined": _GENERIC,
    "pm_card_visa_chargeDeclinedInsufficientFunds": _declined("4000000000009995", "insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": _declined("4000000000009987", "lost_card"),
    "pm_card_visa_chargeDeclinedStolenCard": _declined("4000000000009979", "stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": _declined("4000000000000069", "expired_card", code="expired_card"),
    "pm_card_chargeDeclinedIncorrectCvc": _declined("4000000000000127", "incorrect_cvc", code="incorrect_cvc"),
    "pm_card_chargeDeclinedProcessingError": _declined("4000000000000119", "processing_error", code="processing_error"),
    "pm_card_chargeCustomerFail": _CUSTOMER_FAIL,
    "pm_card_authenticationRequired": Card(number="4000002760003184", authenticates=True),
    "pm_card_createDispute": Card(number="4000000000000259", dispute="fraudulent"),
    "pm_card_createDisputeProductNotReceived": Card(number="4000000000002685", dispute="product_not_received"),
    "pm_card_createDisputeInquiry": Card(number="4000000000001976", dispute="fraudulent", inquiry=True),
    "pm_card_refundFail": Card(number="4000000000005126", refund="failed"),
    "pm_card_pendingRefund": Card(number="4000000000007726", refund="succeeded"),
}
_BY_NUMBER = {card.number: card for card in BY_NAME.values()}
_BY_LAST4 = {card.last4: card for card in BY_NAME.values()}

ANY = _VISA
"""The card of a customer without a payment method, so that a test of billing needs none."""
FAILING = _CUSTOMER_FAIL
"""The card of a customer whose metadata makes payments fail."""


def by_number(number: str) -> Card:
    """The test card of a number; a real one has no business here."""
    card = _BY_NUMBER.get(number)
    if card is None:
        raise ApiError("The simulator takes Stripe's test cards only.", code="incorrect_number", param="card[number]")
    return card


def by_last4(last4: str) -> Card:
    """The card of a stored payment method, which keeps no more of the number."""
    return _BY_LAST4[last4]
