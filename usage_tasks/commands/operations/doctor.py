"""`usage-tasks doctor`: looks a whole installation over, and says of each finding what to do."""

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from pydantic_core import to_json
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table
from sqlalchemy import text

from usage_tasks.commands import WRONG
from usage_tasks.commands.operations.stripe_findings import look_at_stripe
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.health import DIRECTORY_VARIABLE, check_heartbeats
from usage_tasks.runtime import Runtime
from usage_tasks.services.operations.job_standings import list_job_standings
from usage_tasks.settings import Settings, SettingsError, load_settings, read_stripe_credentials
from usage_tasks.storage.migrate import head_revision
from usage_tasks.tasks.checks import check_now

SKEW_MAX: Final = timedelta(seconds=2)
_READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH


class Verdict(StrEnum):
    """How a check came out; only `wrong` makes the exit code 1."""

    FINE = "fine"
    LOOK = "look"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorFinding:
    """One check: what was found, and what to do about it."""

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def examine(environ: Mapping[str, str]) -> Iterator[DoctorFinding]:
    """Look everything over; one thing that is away hides no other."""
    try:
        settings = load_settings(environ)
    except SettingsError as error:
        yield DoctorFinding(check="settings", verdict=Verdict.WRONG, found=str(error), advice="Correct what is named.")
        return
    yield DoctorFinding(check="settings", verdict=Verdict.FINE, found="complete")
    yield from _secrets(settings, environ)
    rt = Runtime(settings)
    guarded: tuple[tuple[str, Callable[[Runtime], Iterator[DoctorFinding]], type[Exception], str], ...] = (
        ("database", _database, RetryableError, "Start it, or correct database.url or DATABASE_URL."),
        ("broker", _broker, RedisError, "Start it, or correct redis or REDIS_URL."),
    )
    for name, look, away, advice in guarded:
        try:
            yield from list(look(rt))
        except away as error:
            yield DoctorFinding(check=name, verdict=Verdict.WRONG, found=f"cannot be asked: {error}", advice=advice)
    yield from _prices(rt)
    yield from (DoctorFinding(check=c, verdict=Verdict(v), found=f, advice=a) for c, v, f, a in look_at_stripe(rt))
    yield from _beat(environ)


def _prices(rt: Runtime) -> Iterator[DoctorFinding]:
    """Ask Stripe for the configured prices and their meter; nothing where none is configured."""
    if not rt.settings.stripe_prices.by_key():
        return
    verdict, found, advice = Verdict.FINE, "prices and meter are as the settings say", ""
    try:
        check_now(rt)
    except RetryableError as error:
        verdict, found, advice = Verdict.LOOK, f"cannot be asked: {error}", "Ask again once Stripe can be reached."
    except PermanentError as error:
        verdict, found, advice = Verdict.WRONG, str(error), "Correct it in Stripe, or in stripePrices and the key."
    except SettingsError as error:
        verdict, found, advice = Verdict.WRONG, str(error), "Prices are configured, and no key to ask for them."
    yield DoctorFinding(check="stripe", verdict=verdict, found=found, advice=advice)


def _secrets(settings: Settings, environ: Mapping[str, str]) -> Iterator[DoctorFinding]:
    for name in (settings.stripe_credentials_file, environ.get("USAGE_CONFIG")):
        if name and Path(name).exists():
            mode = Path(name).stat().st_mode
            open_to_all = bool(mode & _READABLE_BY_OTHERS)
            # The configuration file holds a secret only where a URL of it has a password.
            secret = name == settings.stripe_credentials_file or _has_password(settings)
            wrong = open_to_all and secret
            yield DoctorFinding(
                check="file",
                verdict=Verdict.WRONG if wrong else Verdict.FINE,
                found=f"{name} has mode {stat.filemode(mode)}",
                advice=f"chmod 600 {name}: it holds secrets that others can read." if wrong else "",
            )
    try:
        key = read_stripe_credentials(settings, environ).get_secret_key()
    except SettingsError as error:
        advice = "Needed by billing workers; see stripeCredentialsFile."
        yield DoctorFinding(check="stripe", verdict=Verdict.LOOK, found=str(error), advice=advice)
        return
    kind = next((each for each in ("test", "live") if f"_{each}_" in key[:8]), "unknown")
    stand_in = settings.stripe_api_base is not None
    wrong = kind == "unknown" or (kind == "live" and (stand_in or settings.test_clock))
    live = "A live key beside a stand-in or a test clock: use a test key."
    advice = live if kind == "live" else "It should begin with sk_test_, sk_live_, rk_test_ or rk_live_."
    yield DoctorFinding(
        check="stripe",
        verdict=Verdict.WRONG if wrong else Verdict.FINE,
        found=f"the key's mode is {kind}{', calls go to a stand-in' if stand_in else ''}",
        advice=advice if wrong else "",
    )


def _has_password(settings: Settings) -> bool:
    return any(urlsplit(url).password for url in (settings.database_url, settings.redis_url))


def _database(rt: Runtime) -> Iterator[DoctorFinding]:
    with rt.transaction() as connection:
        now = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
        exists = connection.execute(text("SELECT to_regclass('alembic_version')")).scalar_one()
        version = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() if exists else None
    yield _skew("database", now)
    head = head_revision()
    yield DoctorFinding(
        check="migrations",
        verdict=Verdict.FINE if version == head else Verdict.WRONG,
        found=f"the database is at {version}, this version at {head}",
        advice="" if version == head else "Run usage-tasks migrate, or start workers of the database's version.",
    )
    if version != head:
        return
    with rt.transaction() as connection:
        standings = list_job_standings(connection, rt.settings.job_schedules, at=rt.now())
    for each in standings:
        yield DoctorFinding(
            check=each.job,
            verdict=Verdict.WRONG if each.overdue else Verdict.FINE,
            found="switched off" if each.period_seconds is None else f"{each.outcome}, lag {each.lag_seconds:.0f} s",
            advice="Is a beat alive, and a worker of its queue? See usage-tasks jobs." if each.overdue else "",
        )


def _broker(rt: Runtime) -> Iterator[DoctorFinding]:
    redis_time: Any = rt.redis.time()
    yield _skew("broker", datetime.fromtimestamp(redis_time[0] + redis_time[1] / 1_000_000, UTC))
    for name, wanted, why in (
        ("maxmemory-policy", "noeviction", "else messages vanish when memory is short"),
        ("appendonly", "yes", "else a restart loses every message"),
    ):
        held: Any = rt.redis.config_get(name)
        found = held.get(name, "unknown")
        right = found == wanted
        yield DoctorFinding(
            check="broker",
            verdict=Verdict.FINE if right else Verdict.WRONG,
            found=f"{name} is {found}",
            advice="" if right else f"Set {name} {wanted} in its configuration: {why}.",
        )


def _skew(of: str, now: datetime) -> DoctorFinding:
    skew = abs(now - datetime.now(UTC))
    return DoctorFinding(
        check="clocks",
        verdict=Verdict.FINE if skew <= SKEW_MAX else Verdict.WRONG,
        found=f"{of} and this machine differ by {skew.total_seconds():.2f} s",
        advice="" if skew <= SKEW_MAX else "Run a time service on both.",
    )


def _beat(environ: Mapping[str, str]) -> Iterator[DoctorFinding]:
    named = environ.get(DIRECTORY_VARIABLE)
    if not named:
        advice = f"Set {DIRECTORY_VARIABLE} for beats, workers and this command."
        yield DoctorFinding(check="beat", verdict=Verdict.LOOK, found="nobody writes heartbeats", advice=advice)
        return
    beats = check_heartbeats(Path(named), "beat", live=False)
    alive = [name for name, problem in beats if problem is None]
    none = Verdict.WRONG if beats else Verdict.LOOK  # beat may run on another machine: the jobs show whether it ticks
    yield DoctorFinding(
        check="beat",
        verdict=Verdict.FINE if alive else none,
        found=f"{len(alive)} of {len(beats)} are alive on this machine",
        advice="" if alive else "Start celery -A usage_tasks beat, unless one runs on another machine.",
    )


def doctor(as_json: Annotated[bool, typer.Option("--json", help="a line of JSON a finding")] = False) -> None:
    """Look the installation over: exit code 1 if something is wrong, with what to do about it."""
    findings = list(examine(os.environ))
    if as_json:
        sys.stdout.writelines(to_json(asdict(each)).decode() + "\n" for each in findings)
    else:
        table = Table("check", "", "found", "what to do")
        for each in findings:
            table.add_row(each.check, each.verdict.value, each.found, each.advice)
        Console().print(table)
    raise typer.Exit(WRONG if any(each.verdict is Verdict.WRONG for each in findings) else 0)
