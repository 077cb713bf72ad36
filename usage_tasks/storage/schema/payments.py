"""Stripe's customers, subscriptions, invoices, holds, disputes and refunds, and what was done about them."""

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)

from usage_tasks.domain.disputes import DisputeStatus
from usage_tasks.domain.dunning import DunningState
from usage_tasks.domain.payments import InvoiceStatus, StripeOperation
from usage_tasks.storage.schema.columns import account, metadata, moment, one_of, required

stripe_customer = Table(
    "stripe_customer",
    metadata,
    account(primary_key=True),
    Column("stripe_customer_id", Text, unique=True),
    required("currency", Text()),
    required("billing_creator_user_id", Text()),
    required("idempotency_key", Text()),
    # Since when its key is a fresh one; a call with an earlier one may have begun until then. A trigger sets it.
    moment("renewed_at", nullable=True),
    moment("created_at", default_now=True),
    moment("deleted_at", nullable=True),
    # When its subscriptions were last looked at; why no quantity can bill them, and since when that is known.
    moment("looked_at", nullable=True),
    moment("parked_at", nullable=True),
    Column("parked_reason", Text),
    CheckConstraint("(parked_at IS NULL) = (parked_reason IS NULL)", name="parked"),
    Index("stripe_customer_parked_idx", "attribution_id", postgresql_where=text("parked_at IS NOT NULL")),
)

stripe_subscription = Table(
    "stripe_subscription",
    metadata,
    account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stripe_subscription_id", Text, unique=True),
    required("idempotency_key", Text()),
    required("price_id", Text()),
    # The prices that calls with earlier keys had (a trigger adds them), and since when the key is a fresh one.
    required("earlier_price_ids", ARRAY(Text()), default="'{}'"),
    moment("renewed_at", nullable=True),
    # The arguments of the call, used again after a crash; null until it is about to be made.
    Column("automatic_tax", Boolean),
    moment("created_at", default_now=True),
    # Since when it bills nothing more: Stripe has ended it, and its last invoice is booked.
    moment("ended_at", nullable=True),
    # As Stripe had it when it was last fetched; between the two ends its last invoice is waited for.
    Column("status", Text),
    moment("stripe_ended_at", nullable=True),
    Column("last_invoice_id", Text),
    moment("fetched_at", nullable=True),
    moment("checked_at", default_now=True),
    ForeignKeyConstraint(["attribution_id"], ["stripe_customer.attribution_id"]),
    Index(
        "stripe_subscription_open_idx",
        "attribution_id",
        unique=True,
        postgresql_where=text("ended_at IS NULL"),
    ),
    Index("stripe_subscription_checked_idx", "checked_at", postgresql_where=text("ended_at IS NULL")),
)

# Every invoice of our subscriptions, at the furthest that it was ever seen.
stripe_invoice = Table(
    "stripe_invoice",
    metadata,
    account(primary_key=True),
    Column("stripe_invoice_id", Text(collation="C"), primary_key=True),
    required("stripe_subscription_id", Text()),
    required("status", Text()),
    # The credits of our prices that it bills; fixed once it is final.
    required("credit_cents", BigInteger()),
    # In minor units of the currency.
    required("currency", Text()),
    required("total", BigInteger()),
    required("amount_due", BigInteger()),
    required("amount_paid", BigInteger()),
    required("amount_remaining", BigInteger()),
    required("attempts", Integer()),
    moment("period_start"),
    moment("period_end"),
    moment("created_at"),
    moment("finalized_at", nullable=True),
    moment("paid_at", nullable=True),
    moment("voided_at", nullable=True),
    moment("uncollectible_at", nullable=True),
    Column("replaced_by", Text),
    # The first failed payment, as far as events reported it.
    moment("failed_at", nullable=True),
    # A copy fetched before this is older than the stored one; invoices are fetched again in this order.
    moment("fetched_at"),
    moment("checked_at", default_now=True),
    one_of("status", InvoiceStatus),
    CheckConstraint("(status = 'draft') = (finalized_at IS NULL)", name="finalized_at"),
    UniqueConstraint("stripe_invoice_id"),
    Index("stripe_invoice_subscription_idx", "stripe_subscription_id"),
    Index(
        "stripe_invoice_unsettled_idx",
        "checked_at",
        postgresql_where=text("status IN ('draft', 'open', 'uncollectible')"),
    ),
    Index(
        "stripe_invoice_failed_idx",
        "attribution_id",
        postgresql_where=text("failed_at IS NOT NULL AND status IN ('open', 'uncollectible')"),
    ),
)

# An operator's action in Stripe: a row before the call, with its idempotency key, settled after it.
stripe_action = Table(
    "stripe_action",
    metadata,
    account(primary_key=True),
    Column("operation", Text, primary_key=True),
    Column("object_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    required("idempotency_key", Text()),
    required("actor", Text()),
    moment("requested_at", default_now=True),
    moment("claimed_until", nullable=True),
    moment("settled_at", nullable=True),
    # Null while open and once done; why Stripe refused it.
    Column("error", Text),
    one_of("operation", StripeOperation),
    UniqueConstraint("idempotency_key"),
    Index(
        "stripe_action_open_idx",
        "operation",
        "object_id",
        unique=True,
        postgresql_where=text("settled_at IS NULL"),
    ),
)

# Accounts with an invoice whose payment failed; other accounts have no row.
dunning = Table(
    "dunning",
    metadata,
    account(primary_key=True),
    required("state", Text()),
    moment("failing_since"),
    required("reminders", Integer(), default="0"),
    moment("changed_at"),
    one_of("state", DunningState),
)

# A row before the call; a sweep finds every hold that is not released, whatever the outcome of the call.
payment_hold = Table(
    "payment_hold",
    metadata,
    account(primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("stripe_payment_intent_id", Text, unique=True),
    required("idempotency_key", Text()),
    required("currency", Text()),
    moment("created_at", default_now=True),
    moment("release_at"),
    moment("claimed_until", nullable=True),
    # When the card was seen to be good for it, and its payment method had become the customer's default.
    moment("confirmed_at", nullable=True),
    moment("released_at", nullable=True),
    ForeignKeyConstraint(["attribution_id"], ["stripe_customer.attribution_id"]),
    Index(
        "payment_hold_open_idx",
        "attribution_id",
        unique=True,
        postgresql_where=text("released_at IS NULL"),
    ),
    Index("payment_hold_due_idx", "release_at", postgresql_where=text("released_at IS NULL")),
)

stripe_dispute = Table(
    "stripe_dispute",
    metadata,
    account(primary_key=True),
    Column("stripe_dispute_id", Text(collation="C"), primary_key=True, unique=True),
    required("status", Text()),
    required("reason", Text()),
    required("amount", BigInteger()),
    required("currency", Text()),
    moment("created_at"),
    moment("changed_at", default_now=True),
    # The users responsible when it began to block; kept when it no longer blocks.
    required("blocked_user_ids", ARRAY(Uuid()), default="'{}'"),
    # The platform was asked to find the owners itself, for the directory knew none.
    required("blocked_account", Boolean(), default="false"),
    one_of("status", DisputeStatus),
)

stripe_refund = Table(
    "stripe_refund",
    metadata,
    account(primary_key=True),
    Column("stripe_refund_id", Text(collation="C"), primary_key=True, unique=True),
    required("status", Text()),
    required("amount", BigInteger()),
    required("currency", Text()),
    Column("stripe_invoice_id", Text),
    moment("created_at"),
    moment("changed_at", default_now=True),
    CheckConstraint("amount >= 0", name="amount"),
)
