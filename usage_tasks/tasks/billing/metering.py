"""`billing.*` for operators: drift of the meter, parked accounts, and their release."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

from pydantic import Field

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import Actor, AttributionId, parse_actor, parse_attribution
from usage_tasks.domain.drift import Drift
from usage_tasks.domain.errors import PermanentError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.metering.drift import SETTLED_FOR, Compared, Question, report_drift
from usage_tasks.services.metering.parked import ReleasedAccounts, release
from usage_tasks.storage.payments import parked
from usage_tasks.storage.payments.parked import ParkedAccount
from usage_tasks.tasks.billing.sync import SEND_THREADS, send_meter_events
from usage_tasks.tasks.jobs import Skipped, run_job
from usage_tasks.tasks.task import NEVER, task
from usage_tasks.telemetry.metrics import METER_DRIFT
from usage_tasks.wire.values import ActorText, Attribution, Flag, Moment

ACCOUNTS_MAX: Final = 10_000
"""One message compares so many accounts; the rest is a message of its own."""

SHOWN_MAX: Final = 100
_LAG_MIN: Final = timedelta(hours=1)
_PERIODS_PER_LAG: Final = 3
_ACTOR: Final = Actor("service:billing.drift_report")

ListLimit = Annotated[int, Field(strict=True, ge=1, le=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftAnswer:
    """How a drift report ended: accounts compared, too fresh to judge, repaired, astray by kind, some of those."""

    accounts: int
    unsettled: int
    repaired: int
    astray: Mapping[str, int]
    sample: Sequence[Drift]


def compare(
    rt: Runtime, *, at: datetime, fix: bool, doubted: bool, actor: Actor, after: AttributionId | str
) -> Compared:
    """Compare a message's worth of accounts, and count those with drift."""
    lag = max(_LAG_MIN, _PERIODS_PER_LAG * (rt.settings.billing_sync_schedule or timedelta(0)))
    # A stand-in counts at once, and its clock is not the one by which a report was accepted.
    settled_for = timedelta(0) if rt.settings.test_clock else SETTLED_FOR
    question = Question(
        at=at,
        event_name=rt.settings.stripe_meter_event_name,
        lag=lag,
        actor=actor,
        fix=fix,
        doubted=doubted,
        settled_for=settled_for,
    )
    done = report_drift(rt.transaction, rt.stripe, question, after=after, limit=ACCOUNTS_MAX, threads=SEND_THREADS)
    for what, count in done.by_kind().items():
        METER_DRIFT.labels(what).inc(count)
    if done.repaired:
        send_meter_events.apply_async(ignore_result=True)
    return done


@task(name="billing.drift_report", time_limit=timedelta(minutes=10), retry=NEVER)
def drift_report(
    at: Moment | None = None,
    fix: Flag = False,  # noqa: FBT002 - a wire argument
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
    after: Attribution | None = None,
) -> DriftAnswer | Skipped:
    """Compare each paying account's ledger, the sent quantity and Stripe's count. Fails if any account has drift.

    With `fix`, reports that Stripe did not count are sent again and owed usage is reported. `after` continues behind an
    account.
    """
    rt = runtime()

    def work(rt: Runtime, now: datetime) -> DriftAnswer:
        done = compare(rt, at=now, fix=fix, doubted=False, actor=_ACTOR, after=after or "")
        if done.after is not None:
            drift_report.apply_async(
                kwargs={"at": now.isoformat(), "fix": fix, "after": done.after}, ignore_result=True
            )
        return DriftAnswer(
            accounts=done.accounts,
            unsettled=done.unsettled,
            repaired=done.repaired,
            astray=done.by_kind(),
            sample=done.drifts[:SHOWN_MAX],
        )

    answer = run_job(
        rt,
        "billing.drift_report",
        rt.settings.job_schedules["billing.drift_report"],
        at=at,
        scheduled=scheduled,
        work=work,
    )
    # Outside the job's run: drift must show as a failure, and is no reason to compare again an hour later.
    if isinstance(answer, DriftAnswer) and answer.astray:
        raise PermanentError(f"drift: {_describe(answer)}")
    return answer


def _describe(answer: DriftAnswer) -> str:
    """Say in a line how many accounts are astray, and some of them."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(answer.astray.items()))
    shown = "; ".join(
        f"{each.attribution_id}: {each.kind}, ledger {each.ledger}, sent {each.sent}, "
        f"stripe {'not asked' if each.stripe is None else each.stripe}{each.reason and f' ({each.reason})'}"
        for each in answer.sample[:10]
    )
    astray = sum(answer.astray.values())
    return f"{astray} of {answer.accounts} accounts astray ({kinds}), {answer.repaired} repaired: {shown}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoubtsAnswer:
    """How many accounts with doubted reports were looked up, and how many reports are sent again."""

    accounts: int
    repaired: int


@task(name="billing.settle_doubts", time_limit=timedelta(minutes=10), retry=NEVER)
def settle_doubts() -> DoubtsAnswer:
    """Look up the reports that Stripe may not have counted, and send the uncounted ones again."""
    rt = runtime()
    done = compare(rt, at=rt.now(), fix=True, doubted=True, actor=_ACTOR, after="")
    return DoubtsAnswer(accounts=done.accounts, repaired=done.repaired)


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkedAnswer:
    """The parked accounts, by name; `after` is the last one where there may be more."""

    accounts: Sequence[ParkedAccount]
    after: AttributionId | None


@task(name="billing.list_parked", time_limit=timedelta(minutes=1), needs=Role.ADMINISTRATOR)
def list_parked(actor: ActorText, limit: ListLimit = 100, after: Attribution | None = None) -> ParkedAnswer:
    """List the accounts that get no reports until somebody releases them, with the reason."""
    parse_actor(actor)
    with runtime().transaction() as connection:
        found = parked.list_parked(connection, limit=limit, after=after or "")
    return ParkedAnswer(accounts=found, after=found[-1].attribution_id if len(found) == limit else None)


@task(name="billing.release_parked", time_limit=timedelta(minutes=1), needs=Role.ADMINISTRATOR)
def release_parked(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> ReleasedAccounts:
    """Release a parked account: its reports are sent again, and its sync goes on; nothing happens if it is not parked.

    If it was parked for its subscription, that is checked in Stripe first: `parked_anew` has the reason if it stays
    parked.
    """
    rt = runtime()
    who = parse_actor(actor)
    released = release(
        rt.transaction,
        rt.stripe,
        parse_attribution(attribution_id).attribution_id,
        our_prices=rt.billing_terms.our_prices,
        at=rt.effective_instant(at, who),
        actor=who,
    )
    if released.parked_anew is None:
        send_meter_events.apply_async(ignore_result=True)
    return released
