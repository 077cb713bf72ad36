"""The one client of Stripe's API: the official SDK with explicit limits, its errors in our words.

The same client speaks to Stripe and to a stand-in: only the base address differs. Source: docs/adr/0005.
"""

import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, cast

import stripe
from stripe.params import EventListParams, InvoiceListParams, InvoiceListParamsCreated

from usage_tasks.domain.errors import (
    AccessDeniedError,
    DeclinedError,
    NotFoundError,
    PermanentError,
    RetryableError,
    UsageError,
)
from usage_tasks.domain.events import EventKind, EventPage
from usage_tasks.domain.payments import (
    Invoice,
    InvoicePage,
    MeterEvent,
    NewCustomer,
    StripeCustomerId,
    StripeInvoiceId,
    StripeSubscriptionId,
    Subscription,
    SubscriptionStanding,
)
from usage_tasks.stripe_gateway import clocks, events, objects
from usage_tasks.stripe_gateway.listing import ListCalls
from usage_tasks.stripe_gateway.metering import MeterReads
from usage_tasks.stripe_gateway.observing import Noting, observed
from usage_tasks.stripe_gateway.payments import PaymentCalls
from usage_tasks.stripe_gateway.reading import moment

CONNECT_SECONDS_MAX: Final = 2.0
READ_SECONDS_MAX: Final = 8.0
CALL_SECONDS_MAX: Final = CONNECT_SECONDS_MAX + READ_SECONDS_MAX
RETRY_AFTER_MAX: Final = timedelta(minutes=10)
_LINES_PER_PAGE: Final = 100
_HTTP_CONFLICT: Final = 409
_HTTP_TOO_MANY: Final = 429
_HTTP_SERVER_ERROR: Final = 500
_PERSONAL: Final = ("customers.", "payment_methods.", "payment_intents.")
_UNSPEAKABLE: Final = re.compile(
    r"\b(?:sk|rk|whsec|pm|card|src|tok)_\w+|\w+_secret_\w+|\S+@\S+|\b[0-9](?:[ -]?[0-9]){11,18}\b"
)
"""Secrets, ids of payment methods, e-mail addresses, card numbers."""


Result = TypeVar("Result")


class LiveGateway(PaymentCalls, ListCalls, MeterReads):
    """Speaks to Stripe. One HTTP session a thread; no retry inside a call: tasks retry, with the same key.

    `admission` opens a block around each call: it may wait, or raise NotAdmittedError, and sees how the call ended.
    """

    def __init__(
        self,
        *,
        secret_key: str,
        meter_event_name: str,
        api_base: str | None = None,
        read_seconds_max: float = READ_SECONDS_MAX,
        admission: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        stripe.enable_telemetry = False  # else the SDK writes a file into the user's home
        self._secret_key = secret_key
        self._meter_event_name = meter_event_name
        self._api_base = api_base
        self._read_seconds_max = read_seconds_max
        self._admission = admission
        self._local = threading.local()

    def create_customer(self, customer: NewCustomer, *, idempotency_key: str) -> StripeCustomerId:
        """See StripeGateway."""
        created = self._call(
            "customers.create",
            lambda client: client.v1.customers.create(
                {
                    "email": customer.email,
                    "name": customer.name,
                    "metadata": {
                        "attributionId": customer.attribution_id,
                        "preferredCurrency": customer.currency,
                        "billingCreatorUserId": customer.billing_creator_user_id,
                    },
                },
                {"idempotency_key": idempotency_key},
            ),
        )
        return StripeCustomerId(created.id)

    def create_subscription(
        self, customer_id: StripeCustomerId, *, price_id: str, idempotency_key: str, automatic_tax: bool = False
    ) -> Subscription:
        """See StripeGateway."""
        created = self._call(
            "subscriptions.create",
            lambda client: client.v1.subscriptions.create(
                {
                    "customer": customer_id,
                    "items": [{"price": price_id}],
                    "automatic_tax": {"enabled": automatic_tax},
                    "billing_mode": {"type": "flexible"},
                },
                {"idempotency_key": idempotency_key},
            ),
        )
        item = created.items.data[0]
        return Subscription(
            subscription_id=StripeSubscriptionId(created.id),
            customer_id=customer_id,
            price_id=price_id,
            current_period_start=moment(item.current_period_start),
            current_period_end=moment(item.current_period_end),
        )

    def send_meter_event(self, event: MeterEvent) -> None:
        """See StripeGateway."""
        try:
            self._call(
                "meter_events.create",
                lambda client: client.v1.billing.meter_events.create(
                    {
                        "event_name": self._meter_event_name,
                        "identifier": event.identifier,
                        "timestamp": int(event.as_of.timestamp()),
                        "payload": {"stripe_customer_id": event.customer_id, "value": str(event.quantity)},
                    },
                    {"idempotency_key": event.identifier},  # by which an error that comes later names the event
                ),
            )
        except PermanentError as error:
            if not _is_duplicate(error, event.identifier):
                clocks.check_timestamp(error, event.as_of)
                raise

    def get_invoice(self, invoice_id: StripeInvoiceId) -> Invoice:
        """See StripeGateway."""
        fetched_at = datetime.now(tz=UTC)
        found = self._call("invoices.retrieve", lambda client: client.v1.invoices.retrieve(invoice_id))
        lines = self._call(
            "invoices.line_items.list",
            lambda client: list(
                client.v1.invoices.line_items.list(invoice_id, {"limit": _LINES_PER_PAGE}).auto_paging_iter()
            ),
        )
        return objects.read_invoice(found, lines, fetched_at=fetched_at)

    def list_invoices(
        self, *, created_from: datetime | None, created_until: datetime, after: StripeInvoiceId | None, limit: int
    ) -> InvoicePage:
        """See StripeGateway."""
        created: InvoiceListParamsCreated = {"lte": int(created_until.timestamp())}
        if created_from is not None:
            created["gte"] = int(created_from.timestamp())
        asked: InvoiceListParams = {"created": created, "limit": limit}
        if after is not None:
            asked["starting_after"] = after
        page = self._call("invoices.list", lambda client: client.v1.invoices.list(asked))
        invoices = tuple(map(objects.read_listed_invoice, page.data))
        return InvoicePage(invoices=invoices, more=page.has_more, listed_at=clocks.listed_at(page))

    def finalize_invoice(self, invoice_id: StripeInvoiceId, *, idempotency_key: str) -> None:
        """See StripeGateway."""
        self._call(
            "invoices.finalize_invoice",
            lambda client: client.v1.invoices.finalize_invoice(
                invoice_id, {"auto_advance": True}, {"idempotency_key": idempotency_key}
            ),
        )

    def get_subscription(self, subscription_id: StripeSubscriptionId) -> SubscriptionStanding:
        """See StripeGateway."""
        fetched_at = datetime.now(tz=UTC)
        found = self._call("subscriptions.retrieve", lambda client: client.v1.subscriptions.retrieve(subscription_id))
        return objects.read_subscription(found, fetched_at=fetched_at)

    def cancel_subscription(self, subscription_id: StripeSubscriptionId) -> None:
        """See StripeGateway. Stripe takes no idempotency key here: of one that has ended it says that there is none."""
        try:
            self._call(
                "subscriptions.cancel",
                lambda client: client.v1.subscriptions.cancel(subscription_id, {"invoice_now": True}),
            )
        except PermanentError:
            if self.get_subscription(subscription_id).ended_at is None:
                raise

    def list_events(self, kind: EventKind, *, created_from: datetime, cursor: str | None, limit: int) -> EventPage:
        """See StripeGateway."""
        if kind is EventKind.THIN:
            thin: dict[str, Any] = {"created": {"gte": events.iso(created_from)}, "limit": limit}
            thin |= {"page": cursor} if cursor else {}
            return events.read_thin_page(
                self._call("core.events.list", lambda client: client.v2.core.events.list(cast("Any", thin)))
            )
        asked: EventListParams = {"created": {"gte": int(created_from.timestamp())}, "limit": limit}
        if cursor is not None:
            asked["starting_after"] = cursor
        return events.read_page(self._call("events.list", lambda client: client.v1.events.list(asked)))

    def find_clock_difference(self) -> timedelta | None:
        """See StripeGateway."""
        http_client: Noting | None = getattr(self._local, "http_client", None)
        return None if http_client is None else http_client.clock_ahead

    def _call(self, operation: str, call: Callable[[stripe.StripeClient], Result]) -> Result:
        client = self._client()
        with self._admission(), observed(operation, self._local.http_client):
            try:
                return call(client)
            except stripe.StripeError as error:
                # Not `from error`: its text would be part of every traceback, and may hold what a payer has entered.
                raise translate(error, operation) from None

    def _client(self) -> stripe.StripeClient:
        client: stripe.StripeClient | None = getattr(self._local, "client", None)
        if client is None:
            self._local.http_client = Noting(
                self._api_base or stripe.DEFAULT_API_BASE, timeout=(CONNECT_SECONDS_MAX, self._read_seconds_max)
            )
            client = self._local.client = stripe.StripeClient(
                self._secret_key,
                base_addresses={"api": self._api_base} if self._api_base else {},
                max_network_retries=0,
                http_client=self._local.http_client,
            )
        return client


def translate(error: stripe.StripeError, operation: str) -> UsageError:
    """Say in our words what Stripe's error means; the message has Stripe's code and request id, never a secret."""
    status = error.http_status or 0
    code = error.error.code if error.error is not None else None
    description = f"stripe {operation}: {type(error).__name__} {status} {code or ''} request {error.request_id}"
    # The SDK raises APIError also for an answer that it can't read, such as a proxy's page or half a reply.
    busy = isinstance(error, stripe.APIConnectionError | stripe.RateLimitError | stripe.APIError)
    if busy or status >= _HTTP_SERVER_ERROR or status == _HTTP_CONFLICT or code == "lock_timeout":
        return RetryableError(description, retry_after=_retry_after(error))
    if isinstance(error, stripe.CardError):
        return DeclinedError(description, decline_code=getattr(error.error, "decline_code", None) or code)
    # Stripe's message may repeat a value: of a payer that would be personal.
    message = "" if operation.startswith(_PERSONAL) else _UNSPEAKABLE.sub("...", error.user_message or "")
    return _permanent(error, code)(f"{description}: {message}")


def _permanent(error: stripe.StripeError, code: str | None) -> type[PermanentError]:
    if isinstance(error, stripe.AuthenticationError | stripe.PermissionError):
        return AccessDeniedError
    return NotFoundError if code == "resource_missing" else PermanentError


def _retry_after(error: stripe.StripeError) -> timedelta | None:
    """How long Stripe asks to wait; a 429 that doesn't say so means a second."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    stated = headers.get("retry-after", "")
    if stated.isascii() and stated.isdigit():
        return min(timedelta(seconds=int(stated)), RETRY_AFTER_MAX)
    return timedelta(seconds=1) if error.http_status == _HTTP_TOO_MANY else None


def _is_duplicate(error: PermanentError, identifier: str) -> bool:
    cause = error.__context__
    return (
        isinstance(cause, stripe.InvalidRequestError)
        and identifier in str(cause.user_message)
        and "already exists" in str(cause.user_message)
    )
