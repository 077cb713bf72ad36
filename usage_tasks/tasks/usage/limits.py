"""`usage.*` of limits: may an account start a session, and at which parts of its limit is it announced."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated

from pydantic import Field

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_attribution
from usage_tasks.domain.limits import THRESHOLD_PERCENT_MAX, THRESHOLDS_MAX
from usage_tasks.runtime import runtime
from usage_tasks.services.limits import entitlement
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, Moment

Percent = Annotated[int, Field(strict=True, ge=1, le=THRESHOLD_PERCENT_MAX)]


@task(name="usage.check_entitlement", time_limit=timedelta(seconds=30), needs=Role.OWNER, names_shown=False)
def check_entitlement(
    attribution_id: Attribution, actor: ActorText, at: Moment | None = None
) -> entitlement.Entitlement:
    """Return True if an account may start a session, why, and when its running sessions will have used up its limit."""
    rt = runtime()
    who = parse_actor(actor)
    now = rt.effective_instant(at, who)
    with rt.transaction() as connection:
        return entitlement.check_entitlement(
            connection,
            parse_attribution(attribution_id),
            policy=rt.limit_policy,
            spending_limits=rt.spending_limits,
            at=now,
            actor=who,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdsAnswer:
    """The percents of its limit at which an account is announced from now on."""

    attribution_id: str
    thresholds: Sequence[int]


@task(name="usage.set_limit_thresholds", time_limit=timedelta(seconds=30), needs=Role.OWNER)
def set_limit_thresholds(
    attribution_id: Attribution,
    actor: ActorText,
    thresholds: Annotated[list[Percent], Field(max_length=THRESHOLDS_MAX)] | None,
    at: Moment | None = None,
) -> ThresholdsAnswer:
    """Set an account's own thresholds, in percent of its limit; null gives it the installation's again."""
    rt = runtime()
    who = parse_actor(actor)
    now = rt.effective_instant(at, who)
    with rt.transaction() as connection:
        in_force = entitlement.set_thresholds(
            connection,
            parse_attribution(attribution_id),
            thresholds=thresholds,
            policy=rt.limit_policy,
            spending_limits=rt.spending_limits,
            at=now,
            actor=who,
        )
    return ThresholdsAnswer(attribution_id=attribution_id, thresholds=in_force)
