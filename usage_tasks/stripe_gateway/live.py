"""The one client of Stripe's API: the official SDK with explicit limits, its errors in our words.

The same client speaks to Stripe and to a stand-in: only the base address differs. Source: docs/adr/0005.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, TypeVar

import stripe

from usage_tasks.domain.errors import AccessDeniedError, PermanentError, RetryableError, UsageError
from usage_tasks.domain.payments import (
    Invoice,
    InvoiceLine,
    MeterEvent,
    NewCustomer,
    StripeCustomerId,
    StripeInvoiceId,
    StripeSubscriptionId,
    Subscription,
)
from usage_tasks.stripe_gateway.metering import MeterReads
from usage_tasks.telemetry.metrics import STRIPE_CALL_SECONDS

CONNECT_SECONDS_MAX: Final = 2.0
READ_SECONDS_MAX: Final = 8.0
CALL_SECONDS_MAX: Final = CONNECT_SECONDS_MAX + READ_SECONDS_MAX
RETRY_AFTER_MAX: Final = timedelta(minutes=10)
_LINES_PER_PAGE: Final = 100
_HTTP_CONFLICT: Final = 409
_HTTP_TOO_MANY: Final = 429
_HTTP_SERVER_ERROR: Final = 500
_UNSPEAKABLE: Final = re.compile(r"\b(?:sk|rk|whsec)_\w+|\S+@\S+")  # secrets and e-mail addresses

Result = TypeVar("Result")


class LiveGateway(MeterReads):
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
        self, customer_id: StripeCustomerId, *, price_id: str, idempotency_key: str
    ) -> Subscription:
        """See StripeGateway."""
        created = self._call(
            "subscriptions.create",
            lambda client: client.v1.subscriptions.create(
                {"customer": customer_id, "items": [{"price": price_id}], "billing_mode": {"type": "flexible"}},
                {"idempotency_key": idempotency_key},
            ),
        )
        item = created.items.data[0]
        return Subscription(
            subscription_id=StripeSubscriptionId(created.id),
            customer_id=customer_id,
            price_id=price_id,
            current_period_start=_moment(item.current_period_start),
            current_period_end=_moment(item.current_period_end),
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
                raise

    def get_invoice(self, invoice_id: StripeInvoiceId) -> Invoice:
        """See StripeGateway."""
        found = self._call("invoices.retrieve", lambda client: client.v1.invoices.retrieve(invoice_id))
        lines = self._call(
            "invoices.line_items.list",
            lambda client: list(
                client.v1.invoices.line_items.list(invoice_id, {"limit": _LINES_PER_PAGE}).auto_paging_iter()
            ),
        )
        return _invoice(found, lines)

    def _call(self, operation: str, call: Callable[[stripe.StripeClient], Result]) -> Result:
        with self._admission(), _observed(operation):
            try:
                return call(self._client())
            except stripe.StripeError as error:
                raise translate(error, operation) from error

    def _client(self) -> stripe.StripeClient:
        client: stripe.StripeClient | None = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = stripe.StripeClient(
                self._secret_key,
                base_addresses={"api": self._api_base} if self._api_base else {},
                max_network_retries=0,
                http_client=stripe.RequestsClient(timeout=(CONNECT_SECONDS_MAX, self._read_seconds_max)),
            )
        return client


@contextmanager
def _observed(operation: str) -> Iterator[None]:
    started = time.perf_counter()
    outcome = "ok"
    try:
        yield
    except UsageError as error:
        outcome = "retryable" if isinstance(error, RetryableError) else "permanent"
        raise
    finally:
        STRIPE_CALL_SECONDS.labels(operation, outcome).observe(time.perf_counter() - started)


def translate(error: stripe.StripeError, operation: str) -> UsageError:
    """Say in our words what Stripe's error means; the message has Stripe's code and request id, never a secret."""
    status = error.http_status or 0
    code = error.error.code if error.error is not None else None
    told = f"stripe {operation}: {type(error).__name__} {status} {code or ''} request {error.request_id}"
    # The SDK raises APIError also for an answer that it can't read, such as a proxy's page or half a reply.
    busy = isinstance(error, stripe.APIConnectionError | stripe.RateLimitError | stripe.APIError)
    if busy or status >= _HTTP_SERVER_ERROR or status == _HTTP_CONFLICT or code == "lock_timeout":
        return RetryableError(told, retry_after=_retry_after(error))
    # Stripe's message may repeat a value: of a customer that would be personal.
    message = "" if operation.startswith("customers.") else _UNSPEAKABLE.sub("...", error.user_message or "")
    denied = isinstance(error, stripe.AuthenticationError | stripe.PermissionError)
    return (AccessDeniedError if denied else PermanentError)(f"{told}: {message}")


def _retry_after(error: stripe.StripeError) -> timedelta | None:
    """How long Stripe asks to wait; a 429 that doesn't say so means a second."""
    headers = {name.lower(): value for name, value in (error.headers or {}).items()}
    stated = headers.get("retry-after", "")
    if stated.isascii() and stated.isdigit():
        return min(timedelta(seconds=int(stated)), RETRY_AFTER_MAX)
    return timedelta(seconds=1) if error.http_status == _HTTP_TOO_MANY else None


def _is_duplicate(error: PermanentError, identifier: str) -> bool:
    cause = error.__cause__
    return (
        isinstance(cause, stripe.InvalidRequestError)
        and identifier in str(cause.user_message)
        and "already exists" in str(cause.user_message)
    )


def _invoice(found: stripe.Invoice, lines: list[stripe.InvoiceLineItem]) -> Invoice:
    finalized_at = found.status_transitions.finalized_at
    details = found.parent.subscription_details if found.parent is not None else None
    subscription = details.subscription if details is not None else None
    return Invoice(
        invoice_id=StripeInvoiceId(_id_of(found)),
        customer_id=StripeCustomerId(_id_of(found.customer)),
        subscription_id=None if subscription is None else StripeSubscriptionId(_id_of(subscription)),
        status=found.status or "draft",
        finalized_at=None if finalized_at is None else _moment(finalized_at),
        period_end=_moment(found.period_end),
        lines=tuple(
            InvoiceLine(
                price_id=_price_of(line),
                quantity=Decimal(0) if line.quantity_decimal is None else Decimal(line.quantity_decimal),
            )
            for line in lines
        ),
    )


def _price_of(line: stripe.InvoiceLineItem) -> str | None:
    details = line.pricing.price_details if line.pricing is not None else None
    return None if details is None else _id_of(details.price)


def _id_of(reference: object) -> str:
    """A reference is an id or, where expanded, the object."""
    identifier = reference if isinstance(reference, str) else getattr(reference, "id", None)
    if not isinstance(identifier, str):
        raise PermanentError(f"stripe: a reference without an id: {type(reference).__name__}")
    return identifier


def _moment(unix_seconds: int) -> datetime:
    return datetime.fromtimestamp(unix_seconds, tz=UTC)
