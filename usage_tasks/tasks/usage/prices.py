"""`usage.add_price_version`: a price from a past or a future instant. A ledger task: no network."""

from datetime import timedelta

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor
from usage_tasks.domain.credits import credits_to_cents
from usage_tasks.domain.prices import AskedPrice, State
from usage_tasks.runtime import runtime
from usage_tasks.services.pricing import add_price
from usage_tasks.services.pricing.add_price import PriceChange
from usage_tasks.tasks.jobs import DryRun
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Flag, MinimumText, Moment, Name, PriceText, RoundingSeconds


@task(name="usage.add_price_version", time_limit=timedelta(minutes=4), needs=Role.ADMINISTRATOR)
def add_price_version(
    workspace_class: Name,
    actor: ActorText,
    credits_per_minute: PriceText,
    effective_from: Moment,
    minimum_credits: MinimumText | None = None,
    rounding_seconds: RoundingSeconds | None = None,
    dry_run: Flag = True,  # noqa: FBT002 - a wire argument
    at: Moment | None = None,
    state: State = State.RUNNING,
) -> PriceChange | DryRun[PriceChange]:
    """Add a price version; from a past instant it re-prices what is posted. A dry run unless `dry_run` is false.

    A minimum or a step that is left out stays as it was just before. A state other than `running` has prices of its
    own; the class needs a price first.
    """
    rt = runtime()
    who = parse_actor(actor)
    asked = AskedPrice(
        workspace_class=workspace_class,
        state=state,
        effective_from=effective_from,
        credits_per_minute=credits_per_minute,
        minimum_cents=None if minimum_credits is None else credits_to_cents(minimum_credits),
        rounding_seconds=rounding_seconds,
    )
    now = rt.effective_instant(at, who)
    with rt.transaction() as connection:
        if dry_run:
            return DryRun(dry_run=add_price.plan_price_version(connection, asked, actor=who))
        return add_price.add_price_version(connection, asked, at=now, actor=who)
