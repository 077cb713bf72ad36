"""`usage.*_quarantined`: reports that were refused, released or dropped. Ledger tasks: no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Final

from pydantic import Field, StrictStr, StringConstraints

from usage_tasks.domain.access import Role
from usage_tasks.domain.accounts import Actor, parse_actor
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime, runtime
from usage_tasks.services.sessions import quarantine
from usage_tasks.services.sessions.quarantine import ReleasedReports
from usage_tasks.storage.sessions.quarantine import QuarantinedReport, Selection, count_waiting, list_selected
from usage_tasks.tasks.jobs import BATCHES_MAX, DryRun
from usage_tasks.tasks.task import task
from usage_tasks.telemetry.metrics import QUARANTINED
from usage_tasks.wire.values import PRINTABLE, ActorText, Flag, Moment

IDS_MAX: Final = 1_000

ReportId = Annotated[str, StringConstraints(strict=True, pattern="^[0-9a-f]{64}$")]
Ids = Annotated[list[ReportId], Field(min_length=1, max_length=IDS_MAX)]
Words = Annotated[StrictStr, Field(min_length=1, max_length=1_000), PRINTABLE]


@task(name="usage.release_quarantined", time_limit=timedelta(minutes=4), needs=Role.ADMINISTRATOR)
def release_quarantined(
    actor: ActorText,
    ids: Ids | None = None,
    field: Words | None = None,
    reason: Words | None = None,
    everything: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = True,  # noqa: FBT002 - a wire argument
    at: Moment | None = None,
) -> ReleasedReports | DryRun[ReleasedReports]:
    """Take up refused reports as if they came now; what still fails stays, with the reason that holds now.

    All that fit `ids`, `field` and `reason`, a part of the text; with none of them `everything` must be true. A dry
    run unless `dry_run` is false.
    """
    rt = runtime()
    selection = _selection(ids, field, reason, everything=everything)
    who = parse_actor(actor)
    now = rt.effective_instant(at, who)
    if dry_run:
        with rt.transaction() as connection:
            plan = quarantine.plan_release(connection, selection, limits=rt.spending_limits, at=now, actor=who)
        return DryRun(dry_run=plan)
    done = _release(rt, selection, at=now, actor=who)
    show_waiting(rt)
    return done


def _release(rt: Runtime, selection: Selection, *, at: datetime, actor: Actor) -> ReleasedReports:
    done, after = ReleasedReports(), None
    for _ in range(BATCHES_MAX):
        with rt.transaction() as connection:
            batch = quarantine.release_batch(
                connection, selection, after=after, limits=rt.spending_limits, at=at, actor=actor
            )
        done, after = done + batch.done, batch.last
        if after is None:
            break
    return done


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """How many refused reports were removed for good, and some of them as they were."""

    dropped: int
    sample: Sequence[QuarantinedReport]


@task(name="usage.drop_quarantined", time_limit=timedelta(minutes=4), needs=Role.ADMINISTRATOR)
def drop_quarantined(
    actor: ActorText,
    ids: Ids | None = None,
    field: Words | None = None,
    reason: Words | None = None,
    everything: Flag = False,  # noqa: FBT002 - a wire argument
    dry_run: Flag = True,  # noqa: FBT002 - a wire argument
    at: Moment | None = None,
) -> Dropped | DryRun[Dropped]:
    """Remove refused reports for good, chosen as for a release. A dry run unless `dry_run` is false."""
    rt = runtime()
    selection = _selection(ids, field, reason, everything=everything)
    who = parse_actor(actor)
    now = rt.effective_instant(at, who)
    count, sample, after = 0, list[QuarantinedReport](), None
    for _ in range(BATCHES_MAX):
        with rt.transaction() as connection:
            if dry_run:
                held = list_selected(connection, selection, after=after, limit=quarantine.BATCH)
                batch = quarantine.DropBatch(dropped=held, last=held[-1] if held else None)
            else:
                batch = quarantine.drop_batch(connection, selection, after=after, at=now, actor=who)
        count, after = count + len(batch.dropped), batch.last
        sample += batch.dropped[: quarantine.SAMPLE_MAX - len(sample)]
        if after is None:
            break
    done = Dropped(dropped=count, sample=sample)
    if dry_run:
        return DryRun(dry_run=done)
    show_waiting(rt)
    return done


def show_waiting(rt: Runtime) -> int:
    """Bring the metric of how many refused reports wait up to date."""
    with rt.transaction() as connection:
        waiting = count_waiting(connection)
    QUARANTINED.set(waiting)
    return waiting


def _selection(ids: Sequence[str] | None, field: str | None, reason: str | None, *, everything: bool) -> Selection:
    chosen = ids is not None or field is not None or reason is not None
    if chosen == everything:
        raise InvalidInputError("everything", everything, "true without ids, field and reason, and false with them")
    return Selection(digests=ids, field=field, reason=reason)
