"""The settings as a value: the mission's JSON keys in camelCase, Python attributes in snake_case.

A field's description states the allowed values; error messages end with it.
"""

from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.alias_generators import to_camel

from usage_tasks.domain.credits import credits_to_cents
from usage_tasks.domain.currencies import known_currencies
from usage_tasks.domain.dunning import DunningPolicy
from usage_tasks.domain.limits import GRACE_PERCENT_MAX, THRESHOLD_PERCENT_MAX, THRESHOLDS_MAX
from usage_tasks.domain.prices import CREDITS_PER_MINUTE_MAX, FRACTIONAL_DIGITS_MAX, MINIMUM_CREDITS_MAX
from usage_tasks.domain.rating import ChargeRule
from usage_tasks.domain.states import price_key, split_price_key
from usage_tasks.settings.database_url import PORT_MAX
from usage_tasks.settings.errors import SettingsError
from usage_tasks.settings.values import (
    CALLS_PER_SECOND_MAX,
    LIMIT_CREDITS_MAX,
    DatabaseUrl,
    HostAndPort,
    InstallationId,
    KeyPrefix,
    LimitCredits,
    MinimumCredits,
    Networks,
    PriceIds,
    PricesByClass,
    PricesByState,
    RedisUrl,
    RoundingStep,
    Schedule,
    Text,
    Thresholds,
    WebUrl,
)

DEFAULT_DATABASE_URL: Final = "postgresql://127.0.0.1:5432/usage"
DEFAULT_REDIS_URL: Final = "redis://127.0.0.1:6379/0"


AccountKind = Literal["team", "individual"]

_SCHEDULE: Final = (
    'a duration as Go writes it, such as "90s", "1h30m" or "24h", above 0 and up to 366 days, or "" for off'
)
_STATES: Final = (
    'prices of the states "suspended" and "stopped_kept" of classes that have a price, such as '
    '{"large": {"suspended": 0.1, "stopped_kept": 0}}: credits per minute, as those of a class'
)
_CLASS_RULES: Final = (
    'rules of classes that have a price, such as {"large": {"minimumCredits": 0.5, "roundingStep": "1m"}}: credits '
    f"from 0 to {MINIMUM_CREDITS_MAX} with at most 2 fractional digits, a step of whole seconds from 1s to 24h"
)
_LIMIT: Final = f"whole credits from 0 to {LIMIT_CREDITS_MAX}"
_THRESHOLDS: Final = (
    f"up to {THRESHOLDS_MAX} different percentages from 1 to {THRESHOLD_PERCENT_MAX}, such as [50, 80, 100]"
)
_GRACE_PERCENT: Final = f"a whole percentage from 0 to {GRACE_PERCENT_MAX}"
DUNNING_PERIOD: Final = timedelta(hours=1)
DRIFT_PERIOD: Final = timedelta(days=1)
VERIFY_PERIOD: Final = timedelta(days=1)
PRUNE_PERIOD: Final = timedelta(hours=1)
DUNNING_DAYS_MAX: Final = 366
_DAYS: Final = f"whole days from 0 to {DUNNING_DAYS_MAX}"
_DAYS_APART: Final = f"whole days from 1 to {DUNNING_DAYS_MAX}"
_PRICE_ID: Final = "the id of a Stripe price, for every currency"
_PRICE_IDS: Final = (
    'at least one currency (three lower-case letters) with the id of its Stripe price: {"eur": "price_..."}'
)
_CALLS_PER_SECOND: Final = f"a whole number from 1 to {CALLS_PER_SECOND_MAX}"


class _Section(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, extra="forbid", frozen=True, strict=True)


class ClassRule(_Section):
    """The rules of a workspace class beside its price: a minimum charge, and steps of time that are charged whole."""

    minimum_credits: MinimumCredits = Decimal(0)
    rounding_step: RoundingStep = timedelta(seconds=1)


class SpendingLimitSettings(_Section):
    """Credits an account may use in a cycle before it pays, where nobody has set a limit for it."""

    for_teams: LimitCredits = Field(description=_LIMIT)
    for_users: LimitCredits = Field(description=_LIMIT)
    min_for_users_on_stripe: LimitCredits = Field(default=0, description=_LIMIT)


class HardLimitGraceSettings(_Section):
    """How far above its spending limit an account may go before nothing starts any more: credits, or a percentage."""

    credits: LimitCredits = Field(default=0, description=_LIMIT)
    percent: int = Field(default=0, ge=0, le=GRACE_PERCENT_MAX, description=_GRACE_PERCENT)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.credits and self.percent:
            raise ValueError("credits and percent exclude each other")
        return self


class StripePrices(_Section):
    """The metered prices of ours: one id for every currency, or one for each."""

    individual_usage_price_id: Text | None = Field(default=None, description=_PRICE_ID)
    individual_usage_price_ids: PriceIds = Field(default_factory=dict, description=_PRICE_IDS)
    team_usage_price_id: Text | None = Field(default=None, description=_PRICE_ID)
    team_usage_price_ids: PriceIds = Field(default_factory=dict, description=_PRICE_IDS)

    @model_validator(mode="after")
    def _one_form_a_kind(self) -> Self:
        for kind in ("individual", "team"):
            one, by_currency = self._of(kind)
            if one is not None and by_currency:
                raise ValueError(f"{kind}UsagePriceId and {kind}UsagePriceIds exclude each other")
        return self

    def price_id(self, kind: AccountKind, currency: str) -> str:
        """The id of our price for this kind of account in this currency; SettingsError when there is none."""
        one, by_currency = self._of(kind)
        found = one or by_currency.get(currency.lower())
        if found is None:
            known = f"there are {', '.join(sorted(by_currency))}" if by_currency else "none is configured"
            raise SettingsError([f"`stripePrices`: no such price (got kind {kind}, currency {currency!r}): {known}"])
        return found

    def by_currency(self, kind: AccountKind) -> Mapping[str, str]:
        """Our prices for this kind of account, by currency; one price for all of them under each that Stripe takes."""
        one, by_currency = self._of(kind)
        return by_currency if one is None else dict.fromkeys(sorted(known_currencies()), one)

    def all_price_ids(self) -> frozenset[str]:
        """Every price of ours: an invoice line of another price is not credits."""
        forms = [self._of("individual"), self._of("team")]
        return frozenset(price for one, many in forms for price in (one, *many.values()) if price is not None)

    def by_key(self) -> Mapping[str, tuple[str, str | None]]:
        """Return every price of ours by its key: its id, and its currency if the key names one."""
        found: dict[str, tuple[str, str | None]] = {}
        for kind in get_args(AccountKind):
            one, by_currency = self._of(kind)
            if one is not None:
                found[f"stripePrices.{kind}UsagePriceId"] = (one, None)
            for currency, price in by_currency.items():
                found[f"stripePrices.{kind}UsagePriceIds.{currency}"] = (price, currency)
        return found

    def _of(self, kind: AccountKind) -> tuple[str | None, Mapping[str, str]]:
        if kind == "team":
            return self.team_usage_price_id, self.team_usage_price_ids
        return self.individual_usage_price_id, self.individual_usage_price_ids


class DunningSettings(_Section):
    """How a failed payment is followed up, in days from it: grace, then reminders so far apart, then suspension."""

    enabled: bool = Field(default=True, description="true or false")
    grace_days: int = Field(default=3, ge=0, le=DUNNING_DAYS_MAX, description=_DAYS)
    reminder_days: int = Field(default=7, ge=1, le=DUNNING_DAYS_MAX, description=_DAYS_APART)
    suspend_after_days: int = Field(default=30, ge=0, le=DUNNING_DAYS_MAX, description=_DAYS)

    @model_validator(mode="after")
    def _grace_ends_first(self) -> Self:
        if self.grace_days > self.suspend_after_days:
            raise ValueError("graceDays may not be more than suspendAfterDays")
        return self

    @property
    def policy(self) -> DunningPolicy | None:
        """The same as spans of time; None if it is off."""
        if not self.enabled:
            return None
        return DunningPolicy(
            grace=timedelta(days=self.grace_days),
            reminder_every=timedelta(days=self.reminder_days),
            suspend_after=timedelta(days=self.suspend_after_days),
        )


class RetentionSettings(_Section):
    """How long history is kept that nothing reads any more; "" for off: it is kept for ever."""

    job_runs: Schedule = Field(default=timedelta(days=90), description=_SCHEDULE)
    sent_announcements: Schedule = Field(default=timedelta(days=90), description=_SCHEDULE)


class ServerSettings(_Section):
    """Where the webhook receiver listens."""

    address: Text = Field(default="127.0.0.1", description="the host name or IP address to bind")
    port: int = Field(default=3000, ge=1, le=PORT_MAX, description="a port from 1 to 65535")
    trusted_proxies: Networks = Field(
        default=(),
        description='IP addresses and networks of proxies whose X-Forwarded-For is believed: ["10.0.0.0/8"]',
    )
    refusals_per_minute: int = Field(
        default=60, ge=0, le=1_000_000, description="refused requests an address may send a minute, or 0 for no limit"
    )


class DatabaseSettings(_Section):
    """The PostgreSQL that holds the ledger."""

    url: DatabaseUrl = Field(
        default=DEFAULT_DATABASE_URL,
        repr=False,
        description="a URL such as postgresql://user:password@host:5432/name, with %40 for @ and %2F for / in a "
        "password, libpq's options behind a ?, and host:port,host:port for several servers",
    )


class Redis(_Section):
    """The Redis or Valkey that is broker, lock and snapshot."""

    address: HostAndPort | None = Field(default=None, description="host:port")
    url: RedisUrl | None = Field(
        default=None,
        repr=False,
        description="a URL such as redis://user:password@host:6379/0, or rediss:// for TLS, which verifies the "
        "server's certificate; ?ssl_ca_certs=FILE names a CA of your own",
    )
    prefix: KeyPrefix = Field(
        default="usage:",
        description="the beginning of every key, one for each installation on a Redis: up to 64 letters, digits and "
        "any of ._:- with a colon at the end",
    )

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if self.address is not None and self.url is not None:
            raise ValueError("address and url exclude each other")
        return self


class Settings(_Section):
    """One installation's configuration. Frozen: to change it is to restart."""

    controller_schedule: Schedule = Field(default=None, description=_SCHEDULE)
    reset_usage_schedule: Schedule = Field(default=None, description=_SCHEDULE)
    billing_sync_schedule: Schedule = Field(default=timedelta(minutes=10), description=_SCHEDULE)
    stripe_backfill_schedule: Schedule = Field(default=timedelta(minutes=5), description=_SCHEDULE)
    invoice_reconcile_schedule: Schedule = Field(default=timedelta(hours=1), description=_SCHEDULE)
    heartbeat_grace: Schedule = Field(default=None, description=_SCHEDULE)
    max_session_lifetime: Schedule = Field(default=None, description=_SCHEDULE)
    credits_per_minute_by_workspace_class: PricesByClass = Field(
        description="at least one workspace class with its credits per minute, a number from 0 to "
        f"{CREDITS_PER_MINUTE_MAX} with at most {FRACTIONAL_DIGITS_MAX} fractional digits"
    )
    credits_per_minute_by_workspace_class_and_state: Mapping[Text, PricesByState] = Field(
        default_factory=dict, description=_STATES
    )
    workspace_class_rules: Mapping[Text, ClassRule] = Field(default_factory=dict, description=_CLASS_RULES)
    default_spending_limit: SpendingLimitSettings = Field(
        description='an object such as {"forTeams": 500, "forUsers": 100}'
    )
    limit_thresholds: Thresholds = Field(
        default=(50, 80, 100),
        description=_THRESHOLDS,
    )
    hard_limit_grace: HardLimitGraceSettings = Field(
        default_factory=HardLimitGraceSettings,
        description='an object with either "credits" or "percent": {"percent": 10}',
    )
    dunning: DunningSettings = Field(
        default_factory=DunningSettings,
        description='an object such as {"graceDays": 3, "reminderDays": 7, "suspendAfterDays": 30}, or '
        '{"enabled": false}',
    )
    retention: RetentionSettings = Field(
        default_factory=RetentionSettings, description='an object such as {"jobRuns": "2160h"}, with "" for off'
    )
    directory_key_file: Text | None = Field(default=None, description="the path of a file that holds the key alone")
    stripe_credentials_file: Text | None = Field(default=None, description="the path of a JSON file")
    stripe_prices: StripePrices = Field(
        default_factory=StripePrices,
        description="an object with one form of price id for individuals and one for teams",
    )
    stripe_api_base: WebUrl | None = Field(
        default=None, description="the http(s) URL of a stand-in for Stripe; leave it out for Stripe itself"
    )
    stripe_meter_event_name: Text = Field(default="usage_credits", description="the event name of Stripe's meter")
    stripe_calls_per_second: int = Field(default=80, ge=1, le=CALLS_PER_SECOND_MAX, description=_CALLS_PER_SECOND)
    server: ServerSettings = Field(
        default_factory=ServerSettings, description='an object such as {"address": "0.0.0.0", "port": 3000}'
    )
    database: DatabaseSettings = Field(
        default_factory=DatabaseSettings, description='an object such as {"url": "postgresql://..."}'
    )
    redis: Redis = Field(default_factory=Redis, description='an object with either "address" or "url", and "prefix"')
    installation: InstallationId | None = Field(
        default=None, description="the id that `usage-tasks installation show` prints, a UUID"
    )
    server_address: Text | None = Field(default=None, description="host:port of the platform's server")
    gitpod_host: Text | None = Field(default=None, description="the host name of the platform")
    test_clock: bool = Field(
        default=False,
        description="true (time comes from Redis: replays and Stripe's test clocks only) or false",
    )

    @field_validator("credits_per_minute_by_workspace_class_and_state", "workspace_class_rules")
    @classmethod
    def _only_classes_with_a_price(cls, by_class: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        priced = info.data.get("credits_per_minute_by_workspace_class")
        if priced is not None and (unknown := sorted(set(by_class) - set(priced))):
            raise ValueError(f"no price for {', '.join(unknown)}")
        return by_class

    @property
    def prices(self) -> Mapping[str, Decimal]:
        """Credits per minute by price key: `large` while it runs, `large:suspended` in another state."""
        return {
            **self.credits_per_minute_by_workspace_class,
            **{
                price_key(name, state): price
                for name, by_state in self.credits_per_minute_by_workspace_class_and_state.items()
                for state, price in by_state.items()
            },
        }

    @property
    def charge_rules(self) -> Mapping[str, ChargeRule]:
        """The rules of the price keys that have one, in credit cents and seconds: in each state those of the class."""
        return {
            key: ChargeRule(
                minimum_cents=credits_to_cents(rule.minimum_credits),
                rounding_seconds=rule.rounding_step // timedelta(seconds=1),
            )
            for key in self.prices
            if (rule := self.workspace_class_rules.get(split_price_key(key)[0]))
        }

    @property
    def job_schedules(self) -> Mapping[str, timedelta | None]:
        """Return every periodic job's task with its period, None for a job that is switched off."""
        return {
            "usage.reconcile": self.controller_schedule,
            "usage.reset": self.reset_usage_schedule,
            "billing.sync": self.billing_sync_schedule,
            "billing.reconcile_invoices": self.invoice_reconcile_schedule,
            "billing.advance_dunning": DUNNING_PERIOD,
            "billing.drift_report": self.billing_sync_schedule and DRIFT_PERIOD,
            "stripe.backfill_events": self.stripe_backfill_schedule,
            "maintenance.verify": self.controller_schedule and VERIFY_PERIOD,
            "maintenance.prune": (self.retention.job_runs or self.retention.sent_announcements) and PRUNE_PERIOD,
        }

    @property
    def database_url(self) -> str:
        """The database as libpq and psycopg take it."""
        return self.database.url

    @property
    def sqlalchemy_url(self) -> str:
        """The database as SQLAlchemy takes it, with psycopg as its driver."""
        return self.database.url.replace("postgresql://", "postgresql+psycopg://", 1)

    @property
    def redis_url(self) -> str:
        """The Redis as redis-py and Kombu take it; an address means database 0 there."""
        if self.redis.url is not None:
            return self.redis.url
        return DEFAULT_REDIS_URL if self.redis.address is None else f"redis://{self.redis.address}/0"
