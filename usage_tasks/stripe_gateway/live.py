"""The one client of Stripe's API: the official SDK with explicit limits, its errors in our words.

The same client speaks to Stripe and to a stand-in: only the base address differs. Source: docs/adr/0005.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar, cast

import stripe
from stripe.params import EventListParams, InvoiceListParams, InvoiceListParamsCreated

from usage_tasks.domain.errors import NotFoundError, PermanentError, RetryableError, SpentKeyError
from usage_tasks.domain.events import EventKind, EventPage
from usage_tasks.domain.idempotency import timed_key
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
from usage_tasks.stripe_gateway.errors import translate
from usage_tasks.stripe_gateway.fields import Fields, InvalidStripeObjectError
from usage_tasks.stripe_gateway.listing import ListCalls
from usage_tasks.stripe_gateway.metering import MeterReads
from usage_tasks.stripe_gateway.observing import Noting, observed
from usage_tasks.stripe_gateway.payments import PaymentCalls
from usage_tasks.stripe_gateway.reading import is_stored_answer, read_new_subscription

CONNECT_SECONDS_MAX: Final = 2.0
READ_SECONDS_MAX: Final = 8.0
CALL_SECONDS_MAX: Final = CONNECT_SECONDS_MAX + READ_SECONDS_MAX
_LINES_PER_PAGE: Final = 100

Result = TypeVar("Result")


class LiveGateway(PaymentCalls, ListCalls, MeterReads):
    """The client of Stripe. One HTTP session per thread; no retry inside a call: tasks retry, with the same key.

    `secret_key` may be a function: it is called before a thread's first call, and its error is the call's.
    `admission` opens a block around each call: it may wait, or raise NotAdmittedError, and sees how the call ended.
    `clock` gives the time of a fetch, in place of the host's own. With `bounded` an object that is of the future by
    that clock is a RetryableError: nothing may take effect later than now.
    """

    def __init__(
        self,
        *,
        secret_key: str | Callable[[], str],
        meter_event_name: str,
        api_base: str | None = None,
        read_seconds_max: float = READ_SECONDS_MAX,
        admission: Callable[[], AbstractContextManager[None]] = nullcontext,
        clock: Callable[[], datetime] | None = None,
        bounded: bool = False,
    ) -> None:
        stripe.enable_telemetry = False  # else the SDK writes a file into the user's home
        self._secret_key = secret_key
        self._meter_event_name = meter_event_name
        self._api_base = api_base
        self._read_seconds_max = read_seconds_max
        self._admission = admission
        self._clock = clock
        self._bounded = bounded
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
        customer_id = StripeCustomerId(Fields(created, "customer").text("id"))
        if is_stored_answer(created) and self._is_gone(customer_id):
            raise SpentKeyError(f"customer {customer_id}: was deleted since the key made it", answered=True)
        return customer_id

    def _is_gone(self, customer_id: StripeCustomerId) -> bool:
        try:
            return self.get_customer(customer_id).deleted
        except NotFoundError:
            return True

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
        subscription = read_new_subscription(Fields(created, "subscription"), price_id=price_id)
        if is_stored_answer(created) and self._is_over(subscription.subscription_id):
            raise SpentKeyError(
                f"subscription {subscription.subscription_id}: ended since the key made it", answered=True
            )
        self._check_has_come(f"subscription {subscription.subscription_id}", subscription.current_period_start)
        return subscription

    def _is_over(self, subscription_id: StripeSubscriptionId) -> bool:
        try:
            return self.get_subscription(subscription_id).ended_at is not None
        except NotFoundError:
            return True

    def send_meter_event(self, event: MeterEvent) -> None:
        """See StripeGateway.

        The identifier is the idempotency key, by which an error that comes later names the event. Where the key is
        spent, a fresh one is safe at once: the identifier keeps the event from being counted twice.
        """
        try:
            self._send_meter_event(event, idempotency_key=event.identifier)
        except SpentKeyError:
            self._send_meter_event(event, idempotency_key=timed_key(event.identifier, self._now()))

    def _send_meter_event(self, event: MeterEvent, *, idempotency_key: str) -> None:
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
                    {"idempotency_key": idempotency_key},
                ),
            )
        except PermanentError as error:
            if not _is_duplicate(error, event.identifier):
                clocks.check_timestamp(error, event.as_of)
                raise

    def get_invoice(self, invoice_id: StripeInvoiceId) -> Invoice:
        """See StripeGateway."""
        fetched_at = self._now()
        found = self._call("invoices.retrieve", lambda client: client.v1.invoices.retrieve(invoice_id))
        lines = self._call(
            "invoices.line_items.list",
            lambda client: list(
                client.v1.invoices.line_items.list(invoice_id, {"limit": _LINES_PER_PAGE}).auto_paging_iter()
            ),
        )
        invoice = objects.read_invoice(
            Fields(found, "invoice"), [Fields(line, "line_item") for line in lines], fetched_at=fetched_at
        )
        happened = (invoice.finalized_at, invoice.paid_at, invoice.voided_at, invoice.uncollectible_at)
        self._check_has_come(f"invoice {invoice_id}", *happened)
        return invoice

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
        listed = Fields(page, "list")
        invoices = tuple(map(objects.read_listed_invoice, listed.objects("data", "invoice")))
        return InvoicePage(invoices=invoices, more=listed.flag("has_more"), listed_at=clocks.listed_at(page))

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
        fetched_at = self._now()
        found = self._call("subscriptions.retrieve", lambda client: client.v1.subscriptions.retrieve(subscription_id))
        standing = objects.read_subscription(Fields(found, "subscription"), fetched_at=fetched_at)
        self._check_has_come(f"subscription {subscription_id}", standing.current_period_start, standing.ended_at)
        return standing

    def _now(self) -> datetime:
        return datetime.now(UTC) if self._clock is None else self._clock()

    def _check_has_come(self, what: str, *instants: datetime | None) -> None:
        """Raise RetryableError for an object of the future: Stripe's clock is ahead, and the object waits for ours."""
        latest = max((each for each in instants if each is not None), default=None)
        if not self._bounded or latest is None:
            return
        ahead = latest - self._now()
        if ahead > timedelta(0):
            raise RetryableError(f"stripe {what}: is {ahead} ahead of the database's clock", retry_after=ahead)

    def cancel_subscription(self, subscription_id: StripeSubscriptionId) -> None:
        """See StripeGateway. Stripe takes no idempotency key here; an ended subscription is "not found"."""
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
            listed = self._call("core.events.list", lambda client: client.v2.core.events.list(cast("Any", thin)))
            return events.read_thin_page(Fields(listed, "list"), listed_at=clocks.listed_at(listed))
        asked: EventListParams = {"created": {"gte": int(created_from.timestamp())}, "limit": limit}
        if cursor is not None:
            asked["starting_after"] = cursor
        page = self._call("events.list", lambda client: client.v1.events.list(asked))
        return events.read_page(Fields(page, "list"), listed_at=clocks.listed_at(page))

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
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                # The SDK stumbles over an object that is not as Stripe describes it.
                raise InvalidStripeObjectError(
                    f"stripe {operation}: the answer is not as Stripe describes it: {type(error).__name__}"
                ) from None

    def _client(self) -> stripe.StripeClient:
        client: stripe.StripeClient | None = getattr(self._local, "client", None)
        if client is None:
            secret_key = self._secret_key if isinstance(self._secret_key, str) else self._secret_key()
            self._local.http_client = Noting(
                self._api_base or stripe.DEFAULT_API_BASE, timeout=(CONNECT_SECONDS_MAX, self._read_seconds_max)
            )
            client = self._local.client = stripe.StripeClient(
                secret_key,
                base_addresses={"api": self._api_base} if self._api_base else {},
                max_network_retries=0,
                http_client=self._local.http_client,
            )
        return client


def _is_duplicate(error: PermanentError, identifier: str) -> bool:
    cause = error.__context__
    return (
        isinstance(cause, stripe.InvalidRequestError)
        and identifier in str(cause.user_message)
        and "already exists" in str(cause.user_message)
    )
