"""The resources of a process: settings, database, Redis, Stripe and the time, each built on first use.

Built in the child, after the fork: no connection is ever shared between processes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from functools import cache, cached_property
from uuid import UUID

import redis
from sqlalchemy import Connection

from usage_tasks.coordination.clock import Clock, DatabaseClock, TestClock
from usage_tasks.coordination.keyspace import open_redis
from usage_tasks.coordination.pacer import Pacer
from usage_tasks.coordination.published_balances import BalanceSnapshots
from usage_tasks.coordination.redis_retry import make_discarding_retry
from usage_tasks.domain.access import user_of
from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.instants import instant_to_act, instant_to_read
from usage_tasks.domain.limits import HardLimitGrace, LimitPolicy
from usage_tasks.services.payments.billing_terms import BillingTerms
from usage_tasks.settings import Settings, load_settings, read_directory_key, read_stripe_credentials
from usage_tasks.storage.directory.names import read_namespace
from usage_tasks.storage.engine import Database
from usage_tasks.storage.operations.jobs import Epoch, hold_epoch
from usage_tasks.storage.schema_version import open_database
from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.stripe_gateway.protocol import StripeGateway


class Runtime:
    """The process's own connections and configuration."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stripe_checked_at: float | None = None
        """When this process last found Stripe set up like the settings, by its monotonic clock."""
        self._epoch: Epoch | None = None

    def fenced(self, epoch: Epoch) -> "Runtime":
        """Return the same connections for one run of a job: no transaction commits once another run has begun."""
        _ = self.database, self.redis, self.clock  # built before they are shared
        fenced = copy(self)
        fenced._epoch = epoch
        return fenced

    @cached_property
    def database(self) -> Database:
        """The pool of database connections. Raises as `open_database` does: if the schema does not fit, each time."""
        return open_database(self.settings.sqlalchemy_url)

    @cached_property
    def redis(self) -> "redis.Redis":
        """A client with bounded waits."""
        return open_redis(self.settings, socket_timeout=5, socket_connect_timeout=2, retry=make_discarding_retry())

    @cached_property
    def stripe_key(self) -> str:
        """The key to call Stripe with; read here and nowhere earlier. Raises SettingsError if there is none."""
        return read_stripe_credentials(self.settings).get_secret_key()

    @cached_property
    def stripe(self) -> StripeGateway:
        """The client of Stripe. It reads the key at its first call: a task without work for Stripe needs none."""
        return LiveGateway(
            secret_key=lambda: self.stripe_key,
            meter_event_name=self.settings.stripe_meter_event_name,
            api_base=self.settings.stripe_api_base,
            admission=Pacer(self.redis, calls_per_second=self.settings.stripe_calls_per_second).call,
            clock=self.database.read_clock,
            bounded=not self.settings.test_clock,
        )

    @cached_property
    def directory_key(self) -> bytes:
        """The key under which e-mails are digested; read here and nowhere earlier."""
        return read_directory_key(self.settings).get_secret_value().encode()

    @cached_property
    def _name_namespace(self) -> UUID:
        with self.database.transaction() as connection:
            return read_namespace(connection)

    def name_namespace(self) -> UUID:
        """Return the namespace in which external ids are UUIDs. It never changes, and is read at the first such id."""
        return self._name_namespace

    @cached_property
    def clock(self) -> Clock:
        """The database's clock, or the installation's test clock."""
        return TestClock(self.redis) if self.settings.test_clock else DatabaseClock(self.database.read_clock)

    @cached_property
    def spending_limits(self) -> SpendingLimits:
        """The configured default limits."""
        limits = self.settings.default_spending_limit
        return SpendingLimits(
            for_teams=limits.for_teams,
            for_users=limits.for_users,
            min_for_users_on_stripe=limits.min_for_users_on_stripe,
        )

    @cached_property
    def billing_terms(self) -> BillingTerms:
        """Which prices are ours, which limits hold, how a failed payment is followed up."""
        return BillingTerms(
            our_prices=self.settings.stripe_prices.all_price_ids(),
            limits=self.spending_limits,
            dunning=self.settings.dunning.policy,
        )

    @cached_property
    def limit_policy(self) -> LimitPolicy:
        """The configured thresholds and grace."""
        grace = self.settings.hard_limit_grace
        return LimitPolicy(
            thresholds=tuple(self.settings.limit_thresholds),
            grace=HardLimitGrace(credits=grace.credits, percent=grace.percent),
        )

    @cached_property
    def snapshots(self) -> BalanceSnapshots:
        """The balances that other services read from Redis."""
        return BalanceSnapshots(self.redis, period=self.settings.controller_schedule)

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Open a transaction that commits at the end."""
        with self.database.transaction() as connection:
            if self._epoch is not None:
                hold_epoch(connection, self._epoch)
            yield connection

    def now(self) -> datetime:
        """Return billing time: the database's present time, or what a test clock shows.

        Not inside a transaction: the database's time is read on a connection of its own.
        """
        return self.clock.now()

    def instant(self, at: datetime | None, actor: Actor | None = None) -> datetime:
        """Return the instant as of which a call is answered: the requested instant, or the present one.

        Raises InvalidInputError for an instant that has not come, and for a user's that is too long ago
        (domain/instants.py). An installation with a test clock may look ahead, and back without a bound.
        """
        if at is None or self.settings.test_clock:
            return at or self.now()
        return instant_to_read(at, now=self.now(), by_user=_is_user(actor))

    def effective_instant(self, at: datetime | None, actor: Actor) -> datetime:
        """Return the instant at which a caller's act takes effect: a service's own, or the present one for a user.

        Raises InvalidInputError as `instant` does; a user's act may be a day old.
        """
        if at is None or self.settings.test_clock:
            return at or self.now()
        return instant_to_act(at, now=self.now(), by_user=_is_user(actor))

    def settling_instant(self, read_at: datetime, actor: Actor) -> datetime:
        """Return the instant up to which a read at `read_at`, from `instant`, may open and settle its account.

        A service's read does both as of what it asks for; a user's as of now.
        """
        return read_at if self.settings.test_clock or not _is_user(actor) else self.now()

    def arrival(self, at: datetime) -> datetime:
        """Return when a message that is worked on now has arrived: now, whatever instant `at` its caller asks for."""
        return at if self.settings.test_clock else self.now()


def _is_user(actor: Actor | None) -> bool:
    return actor is not None and user_of(actor) is not None


@cache
def runtime() -> Runtime:
    """Return this process's runtime. Raises SettingsError if the configuration is wrong."""
    return Runtime(load_settings(os.environ))
