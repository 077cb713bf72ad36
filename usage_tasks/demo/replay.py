"""Replay the quarter by `at`: reports, ticks, resets, invoices and webhooks, in the order of their time."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from celery.exceptions import TimeoutError as ResultTimeoutError

from usage_tasks import client
from usage_tasks.celery import app
from usage_tasks.demo.installation import Installation
from usage_tasks.demo.quarter import Session, reports_between
from usage_tasks.demo.waiting import await_settled
from usage_tasks.domain.cycles import add_months

BEGIN: Final = datetime(2012, 12, 31, tzinfo=UTC)
END: Final = datetime(2013, 5, 1, tzinfo=UTC)
ACTOR: Final = "service:demo"
DAY: Final = timedelta(days=1)
DRAFT: Final = timedelta(hours=1)
"""How long Stripe leaves a draft open, which is when its closing quantity must arrive."""

_ANSWER_SECONDS_MAX: Final = 6
_ATTEMPTS_MAX: Final = 20
_MONTHS: Final = 6

# All teams but the last pay through Stripe from the beginning; it and the first individuals follow later.
_INDIVIDUALS_UPGRADING: Final = 4
_INDIVIDUALS_UPGRADE_AT: Final = datetime(2013, 1, 20, 12, tzinfo=UTC)
_LAST_TEAM_UPGRADES_AT: Final = datetime(2013, 2, 15, 6, tzinfo=UTC)


@dataclass(kw_only=True)
class Totals:
    """The sum of the tasks' answers over the whole replay."""

    sums: dict[str, int] = field(default_factory=dict)

    def add(self, task: str, answer: Mapping[str, Any]) -> None:
        """Add the whole numbers of an answer."""
        for what, number in answer.items():
            if isinstance(number, int):
                key = f"{task} {what}"
                self.sums[key] = self.sums.get(key, 0) + number


def upgrades(sessions: Sequence[Session]) -> Mapping[str, datetime]:
    """Return the accounts that begin to pay through Stripe, and when."""
    accounts = sorted({session.attribution_id for session in sessions})
    teams = [account for account in accounts if account.startswith("team:")]
    individuals = [account for account in accounts if account.startswith("user:")]
    plan = dict.fromkeys(teams[:-1], BEGIN) | {teams[-1]: _LAST_TEAM_UPGRADES_AT}
    return plan | dict.fromkeys(individuals[:_INDIVIDUALS_UPGRADING], _INDIVIDUALS_UPGRADE_AT)


def instants(plan: Mapping[str, datetime], tick: timedelta) -> list[datetime]:
    """List when something happens: each tick, each upgrade, each end of a billing period and of its draft."""
    found = {BEGIN + tick * number for number in range((END - BEGIN) // tick + 1)} | {END}
    for upgraded_at in set(plan.values()):
        ends = [add_months(upgraded_at, months) for months in range(_MONTHS)]
        found |= {instant for end in ends for instant in (end, end + DRAFT)}
    return sorted(instant for instant in found if BEGIN <= instant <= END)


def replay(
    installation: Installation,
    sessions: Sequence[Session],
    *,
    tick: timedelta,
    interrupt_at: datetime | None = None,
    interrupt: Callable[[], None] = lambda: None,
) -> Iterator[tuple[datetime, Totals]]:
    """Walk through the quarter; yield each instant with the totals so far.

    `interrupt` is called once, in the middle of the work at `interrupt_at`: a message of it is under way then.
    """
    totals = Totals()
    plan = upgrades(sessions)
    for account in sorted({session.attribution_id for session in sessions}):
        call("usage.get_cost_center", attribution_id=account, actor=ACTOR, at=BEGIN.isoformat())
    previous = BEGIN - tick
    delivered = 0
    for instant in instants(plan, tick):
        reports = reports_between(sessions, previous, instant)
        batches = client.prepare(reports, actor=ACTOR, at=instant)
        client.send(app, batches)
        if interrupt_at is not None and instant >= interrupt_at:
            interrupt_at = None
            interrupt()
        recorded = client.confirm(app, batches, confirm_seconds=_ANSWER_SECONDS_MAX, attempts=_ATTEMPTS_MAX)
        totals.add("record", asdict(recorded))
        installation.clock.advance(instant)
        installation.stand_in.advance(instant)
        delivered = _await_events(installation, delivered)
        for account in sorted(account for account, upgraded_at in plan.items() if upgraded_at == instant):
            _upgrade(account)
            delivered = _await_events(installation, delivered)
        _tick(installation, instant, totals)
        yield instant, totals
        previous = instant


def _tick(installation: Installation, instant: datetime, totals: Totals) -> None:
    at = instant.isoformat()
    totals.add("reconcile", call("usage.reconcile", at=at))
    totals.add("reset", call("usage.reset", at=at))
    synced = call("billing.sync", at=at)
    totals.add("sync", synced)
    if synced.get("reports"):
        await_settled(installation.database_url)


def _upgrade(account: str) -> None:
    entity = account.partition(":")[2]
    call(
        "billing.create_stripe_customer",
        attribution_id=account,
        actor=ACTOR,
        email=f"{entity}@example.com",
        name=account,
        currency="eur" if int(entity[-1], 16) % 2 else "usd",
        billing_creator_user_id=entity,
    )
    call("billing.create_stripe_subscription", attribution_id=account, actor=ACTOR, spending_limit=100_000)


def _await_events(installation: Installation, delivered_before: int) -> int:
    """Wait until what Stripe's stand-in sent is in the ledger and what that gave rise to is back in Stripe."""
    delivered = installation.stand_in.await_deliveries()
    if delivered != delivered_before:
        await_settled(installation.database_url, events_at_least=delivered)
    return delivered


def call(task_name: str, /, **arguments: Any) -> dict[str, Any]:
    """Dispatch a task by name and wait for its answer; ask again where none comes, for a message can be lost."""
    for _ in range(_ATTEMPTS_MAX):
        sent = app.send_task(task_name, kwargs=arguments)
        try:
            answer: dict[str, Any] = sent.get(timeout=_ANSWER_SECONDS_MAX, interval=0.002)
        except ResultTimeoutError:
            continue
        return answer
    raise TimeoutError(f"{task_name}: no answer after {_ATTEMPTS_MAX} attempts of {_ANSWER_SECONDS_MAX} s")
