"""`billing.*`, invoices: reconcile them, finalize a draft, end a subscription, follow up failed payments."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

from pydantic import StringConstraints

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_attribution
from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.payments import StripeInvoiceId
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.payments import operator_actions
from usage_tasks.services.payments import reconcile_invoices as reconciling
from usage_tasks.services.payments.context import StripeContext
from usage_tasks.services.payments.dunning import Dunned
from usage_tasks.services.payments.dunning import advance_dunning as advance
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.plans import Plan
from usage_tasks.tasks import checks
from usage_tasks.tasks.billing.sync import send_meter_events
from usage_tasks.tasks.jobs import DryRun, Skipped, run_job
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, Flag, Moment

_SHOWN_MAX: Final = 10

InvoiceId = Annotated[str, StringConstraints(strict=True, pattern=r"^in_[A-Za-z0-9_]{1,250}$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileInvoicesAnswer:
    """The result of the invoice job: invoices and subscriptions fetched, entries booked, credits invoiced, reports.

    `retried` are left to the next run; `actions` of operators were taken up again; `unfinished` is 1 if the walk goes
    on in the next run.
    """

    fetched: int = 0
    entries: int = 0
    invoiced_cents: int = 0
    reports: int = 0
    retried: int = 0
    actions: int = 0
    unfinished: int = 0


@task(name="billing.reconcile_invoices", time_limit=timedelta(minutes=4))
def reconcile_invoices(
    at: Moment | None = None,
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = False,  # noqa: FBT002 - a wire argument
) -> ReconcileInvoicesAnswer | Skipped | DryRun[Plan]:
    """Book every invoice of ours whose event never came; fails at the end, with counts, if any cannot be."""
    rt = runtime()
    if dry_run:
        return DryRun(dry_run=reconciling.plan_reconciliation(_desk(rt.instant(at))))

    def work(fenced: Runtime, now: datetime) -> ReconcileInvoicesAnswer:
        if scheduled and checks.is_stripe_unused(fenced):
            return ReconcileInvoicesAnswer()
        context = _desk(now, fenced)
        taken_up, waiting, refused = operator_actions.resume_open(context)
        done = reconciling.reconcile_invoices(context)
        if done.reports:
            send_meter_events.apply_async(ignore_result=True)
        if done.goes_on:
            again = {} if at is None else {"at": at.isoformat()}
            reconcile_invoices.apply_async(kwargs=again, ignore_result=True)
        if failed := [*done.failed, *refused]:
            shown = "; ".join(f"{what}: {reason}" for what, reason in failed[:_SHOWN_MAX])
            raise PermanentError(
                f"invoices: {len(failed)} failed, {done.retried} put off, {done.fetched} reflected: {shown}"
            )
        return ReconcileInvoicesAnswer(
            fetched=done.fetched,
            entries=done.entries,
            invoiced_cents=done.invoiced_cents,
            reports=done.reports,
            retried=done.retried + waiting,
            actions=taken_up,
            unfinished=int(not done.finished),
        )

    period = rt.settings.invoice_reconcile_schedule
    return run_job(rt, "billing.reconcile_invoices", period, at=at, scheduled=scheduled, work=work)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionAnswer:
    """The outcome in words, and the number of entries booked at once."""

    outcome: str
    entries: int


@task(name="billing.finalize_invoice", time_limit=timedelta(minutes=3), needs=Role.ADMINISTRATOR)
def finalize_invoice(
    attribution_id: Attribution, actor: ActorText, stripe_invoice_id: InvoiceId, at: Moment | None = None
) -> ActionAnswer:
    """Finalize an account's draft in Stripe now, its closing quantity first; a final invoice is only booked."""
    who = parse_actor(actor)
    effect = operator_actions.finalize_invoice(
        _desk(runtime().effective_instant(at, who)),
        parse_attribution(attribution_id).attribution_id,
        StripeInvoiceId(stripe_invoice_id),
        actor=who,
    )
    return _answer(effect.outcome, effect.entries, reports=effect.reports)


@task(name="billing.cancel_subscription", time_limit=timedelta(minutes=3), needs=Role.OWNER)
def cancel_subscription(attribution_id: Attribution, actor: ActorText, at: Moment | None = None) -> ActionAnswer:
    """End an account's subscription in Stripe now, with a last invoice; it leaves stripe once that is booked."""
    who = parse_actor(actor)
    effect = operator_actions.cancel_subscription(
        _desk(runtime().effective_instant(at, who)),
        parse_attribution(attribution_id).attribution_id,
        actor=who,
    )
    return _answer(effect.outcome, effect.entries, reports=effect.reports)


@task(name="billing.advance_dunning", time_limit=timedelta(minutes=4))
def advance_dunning(
    at: Moment | None = None,
    scheduled: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = False,  # noqa: FBT002 - a wire argument
) -> Dunned | Skipped | DryRun[Dunned]:
    """Take every due dunning step of accounts whose payment failed; off if the settings switch it off."""
    rt = runtime()
    if dry_run:
        now = rt.instant(at)
        with rt.transaction() as connection, rehearsal(connection):
            return DryRun(dry_run=advance(connection, at=now, policy=rt.billing_terms.dunning))

    def work(fenced: Runtime, now: datetime) -> Dunned:
        with fenced.transaction() as connection:
            return advance(connection, at=now, policy=rt.billing_terms.dunning)

    return run_job(
        rt,
        "billing.advance_dunning",
        rt.settings.job_schedules["billing.advance_dunning"],
        at=at,
        scheduled=scheduled,
        work=work,
    )


def _desk(at: datetime, rt: Runtime | None = None) -> StripeContext:
    rt = rt or runtime()
    return StripeContext(transaction=rt.transaction, stripe=rt.stripe, terms=rt.billing_terms, at=at)


def _answer(outcome: str, entries: int, *, reports: int) -> ActionAnswer:
    if reports:
        send_meter_events.apply_async(ignore_result=True)
    return ActionAnswer(outcome=outcome, entries=entries)
