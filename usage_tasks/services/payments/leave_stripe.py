"""Let an account leave stripe once nothing of its ended subscription is left to be billed. Source: docs/adr/0015."""

from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, parse_attribution
from usage_tasks.domain.cost_centers import BillingStrategy
from usage_tasks.domain.ledger import invoice_key
from usage_tasks.domain.payments import StripeSubscriptionId
from usage_tasks.services.ledger.cost_center import set_cost_center
from usage_tasks.services.ledger.reset import reset_account
from usage_tasks.services.payments.billing_terms import BillingTerms
from usage_tasks.storage.ledger import balances, cost_centers, entries
from usage_tasks.storage.operations import audit
from usage_tasks.storage.payments import invoices, subscriptions
from usage_tasks.storage.payments.subscriptions import KnownSubscription

_ACTOR = Actor("service:stripe.apply_events")


def leave_if_settled(
    connection: Connection, subscription_id: StripeSubscriptionId, *, terms: BillingTerms, at: datetime
) -> bool:
    """Close a subscription that Stripe has ended and whose last invoice is booked. Its account moves to other.

    The caller holds the account's cost center. The account leaves as of the end, or of its last invoice if that came
    later, whenever this runs. Grants and the allowance cover the usage that is open then. Returns True if it left.
    """
    known = subscriptions.find_subscription(connection, subscription_id)
    if known is None or known.stripe_ended_at is None or known.ended_at is not None:
        return False
    closing = invoices.get_closing(connection, known.attribution_id, subscription_id)
    if closing.drafts or not _last_is_booked(connection, known):
        return False
    left_at = max(known.stripe_ended_at, closing.finalized_at or known.stripe_ended_at)
    subscriptions.close_subscription(connection, subscription_id)
    _audit(connection, known, left_at)
    current = cost_centers.find_current(connection, known.attribution_id)
    if current is not None and current.billing_strategy is BillingStrategy.STRIPE:
        set_cost_center(
            connection,
            parse_attribution(known.attribution_id),
            strategy=BillingStrategy.OTHER,
            spending_limit=None,
            expected_version=None,
            limits=terms.limits,
            at=left_at,
            actor=_ACTOR,
        )
        reset_account(connection, known.attribution_id, at=max(at, left_at), actor=_ACTOR)
    return True


def _last_is_booked(connection: Connection, known: KnownSubscription) -> bool:
    if known.last_invoice_id is None:
        return True
    return entries.find_entry(connection, known.attribution_id, invoice_key(known.last_invoice_id)) is not None


def _audit(connection: Connection, known: KnownSubscription, left_at: datetime) -> None:
    audit.append_audit(
        connection,
        at=left_at,
        actor=_ACTOR,
        action="stripe_subscription.end",
        attribution_id=known.attribution_id,
        details={
            "stripe_subscription_id": known.subscription_id,
            "last_invoice_id": known.last_invoice_id,
            "unbilled_cents": balances.get_balance(connection, known.attribution_id, at=left_at),
        },
    )
