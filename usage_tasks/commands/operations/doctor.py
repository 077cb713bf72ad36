"""`usage-tasks doctor`: looks a whole installation over, and says of each finding what to do."""

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer
from pydantic_core import to_json
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from usage_tasks.commands import WRONG
from usage_tasks.commands.operations.stripe_findings import look_at_stripe
from usage_tasks.coordination.broker_clock import read_redis_clock
from usage_tasks.domain.errors import PermanentError, RetryableError
from usage_tasks.domain.schedules import JobStanding
from usage_tasks.health import DIRECTORY_VARIABLE, check_heartbeats
from usage_tasks.runtime import Runtime
from usage_tasks.services.operations.job_standings import list_job_standings
from usage_tasks.settings import Settings, SettingsError, load_settings, read_stripe_credentials
from usage_tasks.storage.engine import Database
from usage_tasks.storage.operations import jobs
from usage_tasks.storage.schema_version import read_schema_version
from usage_tasks.tasks.checks import check_now
from usage_tasks.telemetry.clocks import CLOCKS, STRIPE, Clocks
from usage_tasks.telemetry.skew import find_wrong

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
    rt.database = Database(settings.sqlalchemy_url)  # whatever its schema is
    clocks = Clocks()
    guarded: tuple[tuple[str, Callable[[Runtime, Clocks], Iterator[DoctorFinding]], type[Exception], str], ...] = (
        ("database", _database, RetryableError, "Start it, or correct database.url or DATABASE_URL."),
        ("broker", _broker, RedisError, "Start it, or correct redis or REDIS_URL."),
    )
    for name, look, away, advice in guarded:
        try:
            yield from list(look(rt, clocks))
        except away as error:
            yield DoctorFinding(check=name, verdict=Verdict.WRONG, found=f"cannot be asked: {error}", advice=advice)
    yield from _prices(rt)
    yield from _clocks(clocks)
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


def _database(rt: Runtime, clocks: Clocks) -> Iterator[DoctorFinding]:
    clocks.ask("database", lambda: rt.database.read_clock().timestamp())
    with rt.transaction() as connection:
        schema = read_schema_version(connection)
    yield DoctorFinding(
        check="migrations",
        verdict=Verdict.FINE if schema.fits else Verdict.WRONG,
        found=str(schema),
        advice=schema.advice.capitalize(),
    )
    if not schema.fits:
        return
    with rt.transaction() as connection:
        standings = list_job_standings(connection, rt.settings.job_schedules, at=rt.now())
        yield from _slots(rt, connection, standings)
    for each in standings:
        yield DoctorFinding(
            check=each.job,
            verdict=_judge(each),
            found="switched off" if each.period_seconds is None else f"{each.outcome}, lag {each.lag_seconds:.0f} s",
            advice="" if _judge(each) is Verdict.FINE else "Is a beat alive, and a worker of its queue? See jobs.",
        )


def _judge(job: JobStanding) -> Verdict:
    if job.overdue:
        return Verdict.WRONG
    return Verdict.LOOK if job.outcome == "never" and job.period_seconds is not None else Verdict.FINE


def _broker(rt: Runtime, clocks: Clocks) -> Iterator[DoctorFinding]:
    clocks.ask("redis", lambda: read_redis_clock(rt.redis))
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


def _clocks(clocks: Clocks) -> Iterator[DoctorFinding]:
    """Compare the clocks of the database and Redis with this machine's.

    Stripe's, if it was asked for something, helps to say which is wrong; stripe_findings.py has its line.
    """
    readings = {peer: each for peer, each in CLOCKS.fresh().items() if peer == STRIPE} | dict(clocks.fresh())
    wrong = [f"{name}'s" for name in find_wrong(readings)]
    for peer, each in sorted(clocks.fresh().items()):
        yield DoctorFinding(
            check="clocks",
            verdict=Verdict.WRONG if each.differs else Verdict.FINE,
            found=f"{peer} is {each.ahead:+.2f} s ahead of this machine (±{each.slack:.2f} s)",
            advice=f"Apart from the others: the {' and the '.join(wrong)}. Run a time service." if each.differs else "",
        )


def _slots(rt: Runtime, connection: Connection, standings: Sequence[JobStanding]) -> Iterator[DoctorFinding]:
    """Show what a clock that was wrong has left in the runs of jobs."""
    future = [f"{each.job} {each.future_slot.isoformat()}" for each in standings if each.future_slot is not None]
    if future:
        yield DoctorFinding(
            check="clocks",
            verdict=Verdict.LOOK,
            found=f"slots of the future, a clock was wrong: {', '.join(future)}",
            advice="They count for nothing, and run when their time comes. Whose clock was ahead? See the log.",
        )
    if set_back := jobs.find_set_back(connection, list(rt.settings.job_schedules)):
        yield DoctorFinding(
            check="clocks",
            verdict=Verdict.WRONG,
            found=f"the database's clock shows {set_back.total_seconds():.0f} s less than when a job last began",
            advice="It was set back. What was written meanwhile is of the future: run usage-tasks verify.",
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
