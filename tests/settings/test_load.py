"""One file, overridden by the environment, becomes Settings."""

import json
from datetime import timedelta
from decimal import Decimal

import pytest
from pydantic import ValidationError

from tests.settings.conftest import MISSION_FILE, REQUIRED, Load
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.dunning import DunningPolicy
from usage_tasks.domain.rating import PER_SECOND, ChargeRule
from usage_tasks.settings import SettingsError, load_settings
from usage_tasks.settings.environment import list_fields, variable_name

FROM_ENVIRONMENT = {
    "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"default": 0.1}',
    "USAGE_DEFAULT_SPENDING_LIMIT__FOR_TEAMS": "7",
    "USAGE_DEFAULT_SPENDING_LIMIT__FOR_USERS": "3",
}


def test_the_original_file_works_verbatim(load: Load) -> None:
    settings = load(MISSION_FILE)
    assert settings.controller_schedule == timedelta(minutes=1)
    assert settings.reset_usage_schedule == timedelta(days=1)
    assert settings.credits_per_minute_by_workspace_class == {"default": Decimal("0.5"), "large": Decimal(1)}
    assert (settings.default_spending_limit.for_teams, settings.default_spending_limit.for_users) == (500, 100)
    assert settings.stripe_credentials_file == "/etc/gitpod/stripe/credentials.json"
    assert settings.stripe_prices.all_price_ids() == {"price_1234", "price_5678"}
    assert settings.redis_url == "redis://redis:6379/0"
    assert (settings.server.address, settings.server.port) == ("0.0.0.0", 3000)  # noqa: S104
    assert (settings.server_address, settings.gitpod_host) == ("server:3000", "gitpod.io")


def test_what_is_left_out_has_its_default(load: Load) -> None:
    settings = load()
    assert (settings.controller_schedule, settings.reset_usage_schedule) == (None, None)
    assert settings.billing_sync_schedule == timedelta(minutes=10)
    assert settings.default_spending_limit.min_for_users_on_stripe == 0
    assert settings.stripe_prices.all_price_ids() == frozenset()
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.stripe_api_base is None
    assert settings.stripe_meter_event_name == "usage_credits"
    assert settings.test_clock is False
    assert tuple(settings.limit_thresholds) == (50, 80, 100)
    assert (settings.hard_limit_grace.credits, settings.hard_limit_grace.percent) == (0, 0)


def test_a_grace_is_credits_or_a_percentage(load: Load) -> None:
    assert load(hardLimitGrace={"percent": 10}).hard_limit_grace.percent == 10
    assert load(environ={"USAGE_HARD_LIMIT_GRACE__CREDITS": "50"}).hard_limit_grace.credits == 50
    assert (load().heartbeat_grace, load().max_session_lifetime) == (None, None)


@pytest.mark.holds("stripe.dunning")
def test_dunning_is_in_days_and_can_be_off(load: Load) -> None:
    days = timedelta(days=1)
    usual = DunningPolicy(grace=5 * days, reminder_every=7 * days, suspend_after=30 * days)
    assert load(environ={"USAGE_DUNNING__GRACE_DAYS": "5"}).dunning.policy == usual
    assert load(dunning={"enabled": False}).dunning.policy is None
    with pytest.raises(SettingsError, match="graceDays may not be more than suspendAfterDays"):
        load(dunning={"graceDays": 31})
    assert load().invoice_reconcile_schedule == timedelta(hours=1)


@pytest.mark.holds("lesson.registered-twice")
def test_an_empty_schedule_turns_its_job_off(load: Load) -> None:
    settings = load(controllerSchedule="", resetUsageSchedule="", billingSyncSchedule="")
    assert settings.controller_schedule is None
    assert settings.reset_usage_schedule is None
    assert settings.billing_sync_schedule is None


def test_bounds_of_sessions_are_durations_and_empty_is_off(load: Load) -> None:
    settings = load(heartbeatGrace="5m", maxSessionLifetime="36h")
    assert (settings.heartbeat_grace, settings.max_session_lifetime) == (timedelta(minutes=5), timedelta(hours=36))
    settings = load(heartbeatGrace="", maxSessionLifetime="")
    assert (load().heartbeat_grace, load().max_session_lifetime) == (None, None)


def test_prices_are_the_decimals_that_were_written(load: Load) -> None:
    text = json.dumps(REQUIRED).replace("0.5", "0.16666666670000000001")
    prices = load(text).credits_per_minute_by_workspace_class
    assert prices["default"] == Decimal("0.16666666670000000001")


def test_the_rules_of_a_class_are_exact_cents_and_seconds(load: Load) -> None:
    assert load().charge_rules == {}
    rules = {"default": {"minimumCredits": 0.29, "roundingStep": "1m30s"}}
    assert load(workspaceClassRules=rules).charge_rules == {
        "default": ChargeRule(minimum_cents=CreditCents(29), rounding_seconds=90)
    }
    assert load(workspaceClassRules={"default": {}}).charge_rules == {"default": PER_SECOND}
    variable = {"USAGE_WORKSPACE_CLASS_RULES__DEFAULT": '{"minimumCredits": 2}'}
    assert load(environ=variable).charge_rules["default"].minimum_cents == 200


def test_a_state_has_a_price_of_its_own_and_the_rules_of_its_class(load: Load) -> None:
    assert load().prices == {"default": Decimal("0.5")}
    settings = load(
        creditsPerMinuteByWorkspaceClass={"default": 0.5, "large": 1},
        creditsPerMinuteByWorkspaceClassAndState={"large": {"suspended": 0.1, "stopped_kept": 0}},
        workspaceClassRules={"large": {"roundingStep": "1m"}},
    )
    assert settings.prices == {
        "default": Decimal("0.5"),
        "large": Decimal(1),
        "large:suspended": Decimal("0.1"),
        "large:stopped_kept": Decimal(0),
    }
    by_minutes = ChargeRule(minimum_cents=CreditCents(0), rounding_seconds=60)
    assert settings.charge_rules == dict.fromkeys(["large", "large:suspended", "large:stopped_kept"], by_minutes)
    variable = {"USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS_AND_STATE": '{"default": {"suspended": 0.25}}'}
    assert load(environ=variable).prices["default:suspended"] == Decimal("0.25")


@pytest.mark.holds("stripe.price")
def test_a_price_a_currency_is_found_by_its_currency(load: Load) -> None:
    prices = load(stripePrices={"teamUsagePriceIds": {"eur": "price_e", "usd": "price_u"}}).stripe_prices
    assert (prices.price_id("team", "eur"), prices.price_id("team", "USD")) == ("price_e", "price_u")


def test_a_single_price_is_for_every_currency(load: Load) -> None:
    prices = load(MISSION_FILE).stripe_prices
    assert prices.price_id("individual", "eur") == prices.price_id("individual", "jpy") == "price_1234"


@pytest.mark.holds("stripe.price")
@pytest.mark.parametrize(("kind", "currency"), [("team", "gbp"), ("individual", "eur")])
def test_a_price_that_is_not_configured_is_an_error_that_names_it(load: Load, kind: str, currency: str) -> None:
    prices = load(stripePrices={"teamUsagePriceIds": {"eur": "price_e"}}).stripe_prices
    with pytest.raises(ValueError, match=f"got kind {kind}, currency '{currency}'"):
        prices.price_id("team" if kind == "team" else "individual", currency)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_each_spelling_of_a_postgresql_url_serves_psycopg_and_sqlalchemy(load: Load, scheme: str) -> None:
    settings = load(database={"url": f"{scheme}://u:p@db/usage"})
    assert settings.database_url == "postgresql://u:p@db/usage"
    assert settings.sqlalchemy_url == "postgresql+psycopg://u:p@db/usage"


def test_settings_are_frozen(load: Load) -> None:
    settings = load()
    with pytest.raises(ValidationError, match="frozen"):
        settings.test_clock = True  # type: ignore[misc]  # the point of the test


def test_the_repr_of_settings_shows_no_password(load: Load) -> None:
    settings = load(database={"url": "postgresql://u:hush@db/x"}, redis={"url": "redis://:hush@r:1/0"})
    assert "hush" not in repr(settings)
    assert "hush" not in str(settings)


def test_without_a_file_the_environment_is_enough() -> None:
    settings = load_settings({**FROM_ENVIRONMENT, "USAGE_TEST_CLOCK": "true", "HOME": "/root"})
    assert settings.credits_per_minute_by_workspace_class == {"default": Decimal("0.1")}
    assert settings.default_spending_limit.for_teams == 7
    assert settings.test_clock is True


@pytest.mark.parametrize(
    ("variable", "value", "key", "seen"),
    [
        ("USAGE_CONTROLLER_SCHEDULE", "90s", "controller_schedule", timedelta(seconds=90)),
        ("USAGE_CONTROLLER_SCHEDULE", "", "controller_schedule", None),
        ("USAGE_RESET_USAGE_SCHEDULE", "1h", "reset_usage_schedule", timedelta(hours=1)),
        ("USAGE_BILLING_SYNC_SCHEDULE", "1m", "billing_sync_schedule", timedelta(minutes=1)),
        ("USAGE_HEARTBEAT_GRACE", "10m", "heartbeat_grace", timedelta(minutes=10)),
        ("USAGE_MAX_SESSION_LIFETIME", "36h", "max_session_lifetime", timedelta(hours=36)),
        ("USAGE_REDIS__ADDRESS", "other:1", "redis_url", "redis://other:1/0"),
        ("USAGE_REDIS__URL", "rediss://other/2", "redis_url", "rediss://other/2?ssl_cert_reqs=required"),
        ("REDIS_URL", "redis://other/3", "redis_url", "redis://other/3"),
        ("REDIS_URL", "", "redis_url", "redis://redis:6379/0"),
        ("USAGE_DATABASE__URL", "postgres://db/x", "database_url", "postgresql://db/x"),
        ("DATABASE_URL", "postgres://db/x", "database_url", "postgresql://db/x"),
        ("USAGE_STRIPE_API_BASE", "http://127.0.0.1:1/", "stripe_api_base", "http://127.0.0.1:1"),
        ("USAGE_STRIPE_METER_EVENT_NAME", "42", "stripe_meter_event_name", "42"),
        ("USAGE_STRIPE_CREDENTIALS_FILE", "c.json", "stripe_credentials_file", "c.json"),
        ("USAGE_GITPOD_HOST", "true", "gitpod_host", "true"),
        ("USAGE_LIMIT_THRESHOLDS", "[90, 10]", "limit_thresholds", (10, 90)),
        ("USAGE_LIMIT_THRESHOLDS", "[]", "limit_thresholds", ()),
    ],
)
def test_a_variable_overrides_its_key(load: Load, variable: str, value: str, key: str, seen: object) -> None:
    assert getattr(load(MISSION_FILE, environ={variable: value}), key) == seen


def test_the_conventional_variables_win_over_ours(load: Load) -> None:
    environ = {"REDIS_URL": "redis://a", "USAGE_REDIS__ADDRESS": "b:1", "USAGE_REDIS__URL": "redis://c"}
    assert load(environ=environ).redis_url == "redis://a"


def test_a_variable_sets_one_class_and_leaves_the_others(load: Load) -> None:
    environ = {"USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS__LARGE": "2"}
    prices = load(MISSION_FILE, environ=environ).credits_per_minute_by_workspace_class
    assert prices == {"default": Decimal("0.5"), "large": Decimal(2)}


@pytest.mark.holds("numbers.default-rate")
def test_a_variable_finds_a_class_whose_name_it_cannot_spell(load: Load) -> None:
    environ = {"USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS__G1_LARGE": "2"}
    prices = load(creditsPerMinuteByWorkspaceClass={"g1-Large": 1}, environ=environ)
    assert prices.credits_per_minute_by_workspace_class == {"g1-Large": Decimal(2)}


def test_a_map_as_a_whole_replaces_the_map_of_the_file(load: Load) -> None:
    environ = {
        "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS": '{"g1-small": 0.25}',
        "USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS__G1_SMALL": "0.75",
    }
    prices = load(MISSION_FILE, environ=environ).credits_per_minute_by_workspace_class
    assert prices == {"g1-small": Decimal("0.75")}


def test_prices_by_currency_in_the_environment_replace_the_single_price_of_the_file(load: Load) -> None:
    environ = {"USAGE_STRIPE_PRICES__TEAM_USAGE_PRICE_IDS__EUR": "price_e"}
    prices = load(MISSION_FILE, environ=environ).stripe_prices
    assert prices.price_id("team", "eur") == "price_e"
    assert prices.all_price_ids() == {"price_1234", "price_e"}


def test_every_key_has_a_variable_of_its_own() -> None:
    names = [variable_name(path) for path, _ in list_fields()]
    assert len(set(names)) == len(names)
    assert "USAGE_STRIPE_PRICES__INDIVIDUAL_USAGE_PRICE_IDS" in names
