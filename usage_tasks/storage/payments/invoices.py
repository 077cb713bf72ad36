"""Invoices of our subscriptions, each at the furthest that it was ever seen: what was fetched late changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.invoices import KnownInvoice
from usage_tasks.domain.ledger import INVOICED, credit_note_prefix
from usage_tasks.domain.payments import Invoice, InvoiceStatus, StripeInvoiceId, StripeSubscriptionId
from usage_tasks.storage import keys
from usage_tasks.storage.rows import execute, fetch, fetch_one, sql_list


def _rank(row: str) -> str:
    """How far a row has come, and when that was seen: two fetches compare by it, whichever lands first."""
    return f"array_position(ARRAY[{sql_list(InvoiceStatus)}], {row}.status), {row}.fetched_at"


_PLAIN = (
    "currency, total, amount_due, amount_paid, amount_remaining, attempts, period_start, period_end, created_at, "
    "finalized_at, paid_at, voided_at, uncollectible_at, replaced_by, fetched_at"
)
# Once there they stay; the credits of a final invoice are what was booked.
_ONCE = ("finalized_at", "paid_at", "voided_at", "uncollectible_at", "replaced_by")
_PUT = f"""
    INSERT INTO stripe_invoice AS held
        (attribution_id, stripe_invoice_id, stripe_subscription_id, status, credit_cents, {_PLAIN})
    VALUES (:attribution_id, :invoice_id, :subscription_id, :status, :credit_cents,
            {", ".join(f":{name}" for name in _PLAIN.split(", "))})
    ON CONFLICT (attribution_id, stripe_invoice_id) DO UPDATE
    SET status = EXCLUDED.status,
        credit_cents = CASE WHEN held.finalized_at IS NULL THEN EXCLUDED.credit_cents ELSE held.credit_cents END,
        {", ".join(f"{name} = EXCLUDED.{name}" for name in _PLAIN.split(", ") if name not in _ONCE)},
        {", ".join(f"{name} = COALESCE(EXCLUDED.{name}, held.{name})" for name in _ONCE)},
        checked_at = clock_timestamp()
    WHERE ({_rank("EXCLUDED")}) >= ({_rank("held")})
"""


def put_invoice(connection: Connection, account: AttributionId, invoice: Invoice, cents: CreditCents) -> bool:
    """Store an invoice of an account as it was fetched; return True if it was not known to be further already."""
    amounts = invoice.amounts
    stored = execute(
        connection,
        _PUT,
        attribution_id=account,
        invoice_id=invoice.invoice_id,
        subscription_id=invoice.subscription_id,
        status=invoice.status.value,
        credit_cents=cents,
        currency=amounts.currency,
        total=amounts.total,
        amount_due=amounts.due,
        amount_paid=amounts.paid,
        amount_remaining=amounts.remaining,
        attempts=invoice.attempts,
        period_start=invoice.period_start,
        period_end=invoice.period_end,
        created_at=invoice.created_at,
        finalized_at=invoice.finalized_at,
        paid_at=invoice.paid_at,
        voided_at=invoice.voided_at,
        uncollectible_at=invoice.uncollectible_at,
        replaced_by=invoice.replaced_by,
        fetched_at=invoice.fetched_at,
    )
    return stored == 1


def get_invoice(connection: Connection, account: AttributionId, invoice_id: StripeInvoiceId) -> KnownInvoice:
    """Return the stored facts of an invoice, and lock it until the transaction ends."""
    row = fetch_one(
        connection,
        f"""
        SELECT attribution_id, stripe_invoice_id AS invoice_id, stripe_subscription_id AS subscription_id, status,
               credit_cents, finalized_at, paid_at, voided_at, uncollectible_at, replaced_by, (
                   SELECT COALESCE(sum(e.credit_cents), 0)::bigint FROM ledger_entry e
                   WHERE e.attribution_id = i.attribution_id AND e.key >= :notes AND starts_with(e.key, :notes)
                       AND right(e.key, length(:suffix)) = :suffix
               ) AS credited_cents, EXISTS (
                   SELECT 1 FROM ledger_entry e
                   WHERE e.attribution_id = i.attribution_id AND e.key = {keys.invoice_key("i.replaced_by")}
               ) AS replacement_booked
        FROM stripe_invoice i WHERE attribution_id = :account AND stripe_invoice_id = :invoice FOR UPDATE
        """,
        account=account,
        invoice=invoice_id,
        notes=credit_note_prefix(invoice_id),
        suffix=f":{INVOICED}",
    )
    return KnownInvoice(**{**row._mapping, "status": InvoiceStatus(row.status)})


def list_replaced(
    connection: Connection, account: AttributionId, invoice_id: StripeInvoiceId
) -> Sequence[StripeInvoiceId]:
    """List an account's invoices that an invoice replaces."""
    statement = """
        SELECT stripe_invoice_id FROM stripe_invoice
        WHERE attribution_id = :account AND replaced_by = :invoice AND finalized_at IS NOT NULL
        ORDER BY stripe_invoice_id
    """
    return [row.stripe_invoice_id for row in fetch(connection, statement, account=account, invoice=invoice_id)]


def mark_failed(connection: Connection, account: AttributionId, invoice_id: StripeInvoiceId, *, at: datetime) -> None:
    """Store that a payment of an invoice failed at an instant. The earliest instant holds, in any order of events."""
    execute(
        connection,
        """
        UPDATE stripe_invoice SET failed_at = LEAST(failed_at, :at)
        WHERE attribution_id = :account AND stripe_invoice_id = :invoice
        """,
        account=account,
        invoice=invoice_id,
        at=at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """The invoices of an ended subscription: whether one is still a draft, and when the last became final."""

    drafts: int
    finalized_at: datetime | None


def get_closing(connection: Connection, account: AttributionId, subscription_id: StripeSubscriptionId) -> Closing:
    """Return the state of the invoices of one subscription."""
    row = fetch_one(
        connection,
        """
        SELECT count(*) FILTER (WHERE finalized_at IS NULL) AS drafts, max(finalized_at) AS finalized_at
        FROM stripe_invoice WHERE attribution_id = :account AND stripe_subscription_id = :subscription
        """,
        account=account,
        subscription=subscription_id,
    )
    return Closing(drafts=row.drafts, finalized_at=row.finalized_at)


def list_known(
    connection: Connection, invoice_ids: Sequence[StripeInvoiceId]
) -> Mapping[StripeInvoiceId, InvoiceStatus]:
    """Return where those of the invoices stand that are stored, by their ids."""
    statement = """
        SELECT stripe_invoice_id, status FROM stripe_invoice
        WHERE stripe_invoice_id = ANY(CAST(:ids AS text[]))
    """
    return {row.stripe_invoice_id: InvoiceStatus(row.status) for row in fetch(connection, statement, ids=invoice_ids)}


def list_failed(connection: Connection, invoice_ids: Sequence[StripeInvoiceId]) -> frozenset[StripeInvoiceId]:
    """List those of the invoices of which it is known that a payment failed."""
    statement = """
        SELECT stripe_invoice_id AS id FROM stripe_invoice
        WHERE stripe_invoice_id = ANY(CAST(:ids AS text[])) AND failed_at IS NOT NULL
    """
    return frozenset(row.id for row in fetch(connection, statement, ids=list(invoice_ids)))


def list_unsettled(
    connection: Connection, *, limit: int, recheck: timedelta, recheck_given_up: timedelta
) -> Sequence[StripeInvoiceId]:
    """Take up to `limit` invoices that may still change and were not looked at for a while, longest first.

    Taking an invoice counts as a look, so that an invoice that cannot be fetched delays no other.
    """
    statement = """
        UPDATE stripe_invoice AS held SET checked_at = clock_timestamp()
        FROM (
            SELECT attribution_id, stripe_invoice_id FROM stripe_invoice
            WHERE status IN ('draft', 'open', 'uncollectible') AND checked_at < clock_timestamp() - CASE
                WHEN status = 'uncollectible' THEN CAST(:recheck_given_up AS interval) ELSE CAST(:recheck AS interval)
            END
            ORDER BY checked_at LIMIT :limit FOR UPDATE SKIP LOCKED
        ) AS due
        WHERE (held.attribution_id, held.stripe_invoice_id) = (due.attribution_id, due.stripe_invoice_id)
        RETURNING held.stripe_invoice_id, held.created_at
    """
    rows = fetch(connection, statement, limit=limit, recheck=recheck, recheck_given_up=recheck_given_up)
    return [row.stripe_invoice_id for row in sorted(rows, key=lambda row: (row.created_at, row.stripe_invoice_id))]


def has_unsent_quantity(connection: Connection, account: AttributionId, *, before: datetime) -> bool:
    """Return True if Stripe has not accepted all reports of an account up to an instant."""
    statement = """
        SELECT EXISTS (
            SELECT 1 FROM meter_report WHERE attribution_id = :account AND as_of < :before AND state <> 'accepted'
        ) AS found
    """
    return bool(fetch_one(connection, statement, account=account, before=before).found)
