"""`usage.report`: usage over any range, split exactly at its edges. A ledger task: no network."""

from datetime import timedelta
from typing import Annotated

from pydantic import Field, StrictInt, StrictStr

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import parse_actor, parse_attribution
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.instants import AHEAD_MAX
from usage_tasks.runtime import runtime
from usage_tasks.services.ledger import report_usage as report
from usage_tasks.services.ledger.report_usage import UsageReport
from usage_tasks.storage.ledger.usage_report import Group
from usage_tasks.tasks.task import NEVER, task
from usage_tasks.wire.values import PRINTABLE, ActorText, Attribution, Moment

_TOKEN_LENGTH_MAX = 4_000

PageToken = Annotated[StrictStr, Field(max_length=_TOKEN_LENGTH_MAX), PRINTABLE]
GroupBy = Annotated[list[Group], Field(min_length=1, max_length=len(Group))]


# Never retried: it would take too long again, and the caller can ask for less.
@task(name="usage.report", time_limit=timedelta(minutes=4), retry=NEVER, needs=Role.MEMBER)
def report_usage(
    actor: ActorText,
    start: Moment,
    end: Moment,
    attribution_id: Attribution | None = None,
    group_by: GroupBy | None = None,
    page_token: PageToken | None = None,
    limit: StrictInt = report.LIMIT_DEFAULT,
    at: Moment | None = None,
) -> UsageReport:
    """Sum usage in [start, end) by groups, by default by day, of one account; a member of a team sees their own part.

    Without an account it covers all accounts, for services and administrators. A page's token goes on as of the first
    page's instant.
    """
    rt = runtime()
    place = None if page_token is None else report.parse_token(page_token)
    # The first page was as of now where its caller's clock was ahead; the caller still sends the same `at`.
    if place is not None and at is not None and not place.at <= at <= place.at + AHEAD_MAX:
        raise InvalidInputError(
            "at", at.isoformat(), f"{place.at.isoformat()}, the instant of the first page, or left out"
        )
    who = parse_actor(actor)
    read_at = rt.instant(at if place is None else place.at, who)
    with rt.transaction() as connection:
        return report.report_usage(
            connection,
            None if attribution_id is None else parse_attribution(attribution_id),
            actor=who,
            start=start,
            end=end,
            at=read_at,
            group_by=group_by or [Group.DAY],
            after=None if place is None else place.after,
            limit=limit,
        )
