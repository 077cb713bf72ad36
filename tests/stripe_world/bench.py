"""The moves of a test that bills: use credits, let the services run, look at the results."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Connection

from tests.factories import LIMITS, SYSTEM, make_id, session_report, team
from tests.outbox import list_messages
from tests.stripe_world.population import add_paying, charge_all
from tests.stripe_world.world import StripeWorld
from usage_tasks.domain.accounts import AttributionId, parse_attribution
from usage_tasks.domain.dunning import DunningPolicy
from usage_tasks.domain.ledger import EntryKind
from usage_tasks.domain.payments import NewCustomer
from usage_tasks.services.inbox.apply_events import Applied, apply_events
from usage_tasks.services.inbox.parse_event import parse_event
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.metering.decide_reports import report_quantities
from usage_tasks.services.metering.send_reports import Sent, send_reports
from usage_tasks.services.operations.verify_ledger import VerificationVerdict, verify
from usage_tasks.services.payments.billing_terms import BillingTerms
from usage_tasks.services.payments.context import StripeContext
from usage_tasks.services.payments.subscribe import create_customer, create_subscription
from usage_tasks.services.sessions.record import record_reports
from usage_tasks.storage.engine import Database, Transaction
from usage_tasks.storage.inbox import events as inbox
from usage_tasks.storage.ledger import balances
from usage_tasks.storage.ledger.entries import Entry, append_entries
from usage_tasks.storage.rows import execute, fetch
from usage_tasks.stripe_gateway.protocol import StripeGateway

DUNNING = DunningPolicy(grace=timedelta(days=3), reminder_every=timedelta(days=7), suspend_after=timedelta(days=20))
EMAIL = "someone@example.com"


class CrashError(BaseException):
    """The process ends here: nothing catches it, as nothing catches a power cut."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """One installation: its database, its Stripe."""

    database: Database
    world: StripeWorld
    stripe: StripeGateway

    def transaction(self) -> AbstractContextManager[Connection]:
        return self.database.transaction()

    def rows(self, statement: str, **parameters: object) -> list[Any]:
        with self.database.transaction() as connection:
            return list(fetch(connection, statement, **parameters))

    def execute(self, statement: str, **parameters: object) -> int:
        with self.database.transaction() as connection:
            return execute(connection, statement, **parameters)

    def use(
        self, account: AttributionId, credits_used: Decimal | int | str, *, until: datetime, post: bool = True
    ) -> None:
        """Record a session of this cost that stops at an instant, at a credit a minute; post it if requested."""
        lasted = timedelta(seconds=int(Decimal(credits_used) * 60))
        report = session_report(
            attribution_id=account,
            workspace_class="xlarge",
            started_at=until - lasted,
            stopping_at=until,
            stopped_at=until,
            observed_at=until,
        )
        with self.database.transaction() as connection:
            record_reports(connection, [report], [], raw=[{}], limits=LIMITS, at=until, actor=SYSTEM)
            if post:
                post_batch(connection, at=until)

    def credit(self, account: AttributionId, cents: int, *, at: datetime) -> None:
        """Take cents off a balance."""
        taken = Entry(
            attribution_id=account,
            key=f"invoice:test-{at.timestamp()}",
            kind=EntryKind.INVOICE,
            credit_cents=-cents,
            effective_at=at,
            description="For this test",
        )
        with self.database.transaction() as connection:
            append_entries(connection, [taken])

    def balance(self, account: AttributionId, at: datetime) -> int:
        with self.database.transaction() as connection:
            return balances.get_balance(connection, account, at=at)

    def customer(self, account: AttributionId, **options: Any) -> str:
        options = {"currency": "usd", "at": None, "email": EMAIL, "transaction": None, "stripe": None} | options
        return create_customer(
            options["transaction"] or self.transaction,
            options["stripe"] or self.stripe,
            NewCustomer(
                attribution_id=account,
                email=options["email"],
                name="Some One",
                currency=options["currency"],
                billing_creator_user_id=str(make_id("creator")),
            ),
            at=options["at"] or self.now(),
            actor=SYSTEM,
        )

    def subscription(self, account: AttributionId, **options: Any) -> str:
        options = {"transaction": None, "stripe": None, "prices": self.world.price_by_currency} | options
        return create_subscription(
            options["transaction"] or self.transaction,
            options["stripe"] or self.stripe,
            parse_attribution(account),
            price_by_currency=options["prices"],
            spending_limit=options.get("spending_limit", 100_000),
            limits=options.get("limits", LIMITS),
            actor=SYSTEM,
        )

    def pay(self, account: AttributionId) -> str:
        """Make an account pay through Stripe; return its customer."""
        customer = self.customer(account)
        self.subscription(account)
        self.receive_and_apply(self.now())
        return customer

    def crowd(self, count: int, *, at: datetime, cents: int = 500) -> dict[AttributionId, str]:
        """Let many accounts pay since an instant, each with a charge and a report of it; return their customers."""
        names = [team(f"crowd {number}") for number in range(count)]
        customers = {name: str(self.world.v1.customers.create({"name": name}).id) for name in names}
        with self.database.transaction() as connection:
            add_paying(connection, customers, at=at)
            charge_all(connection, cents, at=at)
        self.world.advance(at)
        self.sync(at)
        return customers

    def now(self) -> datetime:
        """Return the time of the simulator's clock."""
        with self.world.server.simulator.world() as world:
            return datetime.fromtimestamp(world.now()).astimezone()

    def sync(self, at: datetime) -> int:
        with self.database.transaction() as connection:
            return report_quantities(connection, at=at)

    def send(
        self, stripe: StripeGateway | None = None, *, transaction: Transaction | None = None, **options: Any
    ) -> Sent:
        return send_reports(transaction or self.transaction, stripe or self.stripe, **{"limit": 100} | options)

    def sync_and_send(self, at: datetime) -> None:
        self.world.advance(at)
        self.sync(at)
        self.send()

    def receive(self, *, types: str = "invoice.") -> list[str]:
        """Put Stripe's new events into the inbox; return the ids of the events of a kind."""
        events = [event for event in self.world.new_events() if event.type.startswith(types)]
        for event in events:
            self.store(event)
        return [event.id for event in events]

    def store(self, event: Any) -> None:
        with self.database.transaction() as connection:
            inbox.store_event(connection, parse_event(event.id, str(event)))

    def store_copy(self, event: Any, copy: int) -> None:
        """Store an event; a copy above 0 is a twin: the same fact under another id."""
        stored = parse_event(event.id, str(event))
        with self.database.transaction() as connection:
            inbox.store_event(connection, replace(stored, event_id=event.id + "x" * copy))

    def apply(
        self, at: datetime, stripe: StripeGateway | None = None, *, our_prices: frozenset[str] | None = None
    ) -> Applied:
        prices = self.world.our_prices if our_prices is None else our_prices
        terms = self.terms(our_prices=prices)
        return apply_events(self.transaction, stripe or self.stripe, terms=terms, at=at, limit=100)

    def terms(self, **options: Any) -> BillingTerms:
        """Return the terms that the configuration of an installation with this Stripe would give."""
        given: dict[str, Any] = {"our_prices": self.world.our_prices, "limits": LIMITS, "dunning": DUNNING} | options
        return BillingTerms(**given)

    def context(self, at: datetime, stripe: StripeGateway | None = None, **options: Any) -> StripeContext:
        transaction = options.pop("transaction", None) or self.transaction
        return StripeContext(transaction=transaction, stripe=stripe or self.stripe, terms=self.terms(**options), at=at)

    def receive_and_apply(self, at: datetime) -> Applied:
        self.receive()
        return self.apply(at)

    def reports(self, account: AttributionId | None = None) -> list[tuple[datetime, int, str]]:
        """The meter reports, in the order of their time."""
        found = self.rows(
            "SELECT as_of, quantity, state FROM meter_report WHERE :account IN ('', attribution_id) ORDER BY as_of",
            account=account or "",
        )
        return [(row.as_of, row.quantity, row.state) for row in found]

    def handle_all(self, at: datetime, stripe: StripeGateway | None = None) -> Applied:
        """Receive every new event of Stripe's, and apply due and postponed events until nothing changes."""
        self.receive(types="")
        return self.handle_stored(at, stripe)

    def handle_stored(self, at: datetime, stripe: StripeGateway | None = None) -> Applied:
        """Apply the events in the inbox, postponed ones too, until nothing changes."""
        while True:
            self.execute("UPDATE stripe_event SET next_attempt_at = clock_timestamp() WHERE state = 'pending'")
            done = self.apply(at, stripe)
            if not done.applied:
                return done

    def moves(self, account: AttributionId) -> list[tuple[str, int]]:
        """Return the ledger's entries of an account except sessions: kind and cents, in the order of effect."""
        found = self.rows(
            "SELECT kind, credit_cents FROM ledger_entry WHERE attribution_id = :account AND kind <> 'session' "
            "AND credit_cents <> 0 ORDER BY effective_at, kind, key",
            account=account,
        )
        return [(row.kind, row.credit_cents) for row in found]

    def told(self, account: AttributionId) -> list[str]:
        """Return the announcements about an account, in order, without the prefix."""
        found = [row for row in self.messages() if row.payload["attribution_id"] == account]
        return [row.task.removeprefix("server.") for row in found]

    def messages(self, name: str | None = None) -> list[Any]:
        """List the messages to the platform, in order; only those with the name, if given."""
        with self.database.transaction() as connection:
            return [row for row in list_messages(connection) if name in (None, row.task)]

    def verified(self, at: datetime) -> VerificationVerdict:
        with self.database.transaction() as connection:
            return verify(connection, at=at)

    def invoice_entries(self, account: AttributionId) -> list[int]:
        """Return the cents that invoices took off the balance, without those over nothing."""
        found = self.rows(
            "SELECT credit_cents FROM ledger_entry WHERE attribution_id = :account AND kind = 'invoice' "
            "AND credit_cents <> 0 ORDER BY effective_at",
            account=account,
        )
        return [row.credit_cents for row in found]


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """Start calls in threads at once; return their results."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(call) for call in calls]]


def crashing(transaction: Transaction, nth: int, *, committed: bool) -> Transaction:
    """Let the process end in its nth transaction, just before it commits or just after."""
    count = 0

    @contextmanager
    def opened() -> Iterator[Connection]:
        nonlocal count
        count += 1
        with transaction() as connection:
            yield connection
            if count == nth and not committed:
                raise CrashError
        if count == nth:
            raise CrashError

    return opened


class Wrapped:
    """The real gateway with an action before or after each call, or only calls whose name begins with `only`."""

    def __init__(
        self,
        stripe: StripeGateway,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
        only: str = "",
    ) -> None:
        self._stripe, self._before, self._after, self._only = stripe, before, after, only

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._stripe, name)
        if not name.startswith(self._only):
            return call

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._before:
                self._before()
            answer = call(*args, **kwargs)
            if self._after:
                self._after()
            return answer

        return wrapped


def crash() -> None:
    raise CrashError
