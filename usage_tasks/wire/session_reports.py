"""Session reports as they travel: read one by one, so that a bad one does not refuse its batch."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, WithJsonSchema, field_validator

from usage_tasks.domain.accounts import AttributionId, ExternalId, ExternalName, NameKind, Namespace, parse_id, resolve
from usage_tasks.domain.errors import show
from usage_tasks.domain.prices import State
from usage_tasks.domain.sessions import Rejection, SessionReport
from usage_tasks.domain.timelines import SEGMENTS_MAX, Segment
from usage_tasks.wire.problems import describe
from usage_tasks.wire.values import Attribution, Moment, Name, SessionId, UserId

REPORTS_MAX: Final = 5_000
"""How many reports one message may hold."""

SNAPSHOT_MAX: Final = 20_000
"""How many running sessions one source may list; a snapshot can't be taken apart, a source can."""

AHEAD_MAX: Final = timedelta(days=1)
"""How far ahead of the present a report may have been observed: it would bar every correction until then."""


class SegmentArguments(BaseModel):
    """A class and a state of a session from an instant on, until its next segment or its end."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="Segment")

    begins_at: Moment = Field(alias="from")
    workspace_class: Name
    state: State = State.RUNNING


class ChangeArguments(SegmentArguments):
    """A row of a file with one change of a session, and none of its facts."""

    instance_id: SessionId
    observed_at: Moment | None = None


class ReportArguments(BaseModel):
    """One report of a session. A running session has neither stopping_at nor stopped_at."""

    model_config = ConfigDict(extra="forbid", frozen=True, title="SessionReport")

    instance_id: SessionId
    workspace_id: Name
    user_id: UserId
    attribution_id: Attribution
    workspace_class: Name
    started_at: Moment
    created_at: Moment | None = None
    stopping_at: Moment | None = None
    stopped_at: Moment | None = None
    observed_at: Moment | None = Field(default=None, description="when the sender saw this; the default is now")
    source: Name | None = Field(default=None, description="the cluster or region that runs it")
    segments: tuple[SegmentArguments, ...] = Field(
        default=(), max_length=SEGMENTS_MAX, description="the classes and states it had, rising by `from`"
    )
    state: State | None = Field(default=None, description="of a row of a snapshot: the present state")

    @field_validator("segments")
    @classmethod
    def _rising(cls, segments: tuple[SegmentArguments, ...]) -> tuple[SegmentArguments, ...]:
        for earlier, later in pairwise(segments):
            if later.begins_at <= earlier.begins_at:
                came = later.begins_at.isoformat()
                raise ValueError(f"must be rising by `from`, later than {earlier.begins_at.isoformat()} (got {came})")
        return segments


def _inlined(schema: Any, parts: Mapping[str, Any]) -> Any:
    """Put the parts that a schema refers to into it: it becomes a part of others, which do not have these."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(parts[schema["$ref"].rpartition("/")[2]], parts)
        return {name: _inlined(each, parts) for name, each in schema.items() if name != "$defs"}
    return [_inlined(each, parts) for each in schema] if isinstance(schema, list) else schema


_SCHEMA: Final = ReportArguments.model_json_schema()

RawReport = Annotated[Any, WithJsonSchema(_inlined(_SCHEMA, _SCHEMA["$defs"]))]
"""A report as it came: each is read on its own, so that a bad one does not refuse its batch."""


_SOURCE: Final = TypeAdapter(Name)


def parse_reports(
    raw: Sequence[object],
    *,
    at: datetime,
    namespace: Namespace,
    source: str | None = None,
    accepted: bool = False,
) -> tuple[list[SessionReport], list[Rejection]]:
    """Read each report of a batch on its own: the good ones, and for each bad one its index, field and reason.

    External ids are UUIDs in `namespace`. With `source` the batch lists what runs there: a report that names another
    one is bad. Reports that were `accepted` before may be observed at any time.
    """
    reports, rejections = [], []
    for index, row in enumerate(raw):
        if isinstance(row, dict) and "from" in row:
            reason = f'must be given in "segments"; in a file, of a session that is known (got {show(row["from"])})'
            rejections.append(Rejection(index=index, field="from", reason=reason))
            continue
        try:
            report = _report(index, ReportArguments.model_validate(row), at=at, namespace=namespace, source=source)
        except ValidationError as error:
            rejections.append(_rejection(index, row, error))
            continue
        if source is None and report.state is not None:
            reason = f'must be given in "segments"; in a file, with `from` (got {show(str(report.state))})'
            rejections.append(Rejection(index=index, field="state", reason=reason))
        elif not accepted and report.observed_at > at + AHEAD_MAX:
            reason = f"must be at most a day after {at.isoformat()} (got {report.observed_at.isoformat()})"
            rejections.append(Rejection(index=index, field="observed_at", reason=reason))
        elif source is not None and report.source != source:
            reason = f"must be {source!r}, the source of this snapshot (got {show(report.source)})"
            rejections.append(Rejection(index=index, field="source", reason=reason))
        else:
            reports.append(report)
    return reports, rejections


def find_segment(row: object, *, at: datetime) -> Segment | None:
    """Return the segment of a row with one change and no facts, observed at `at` unless given.

    None for another row, and for one that cannot be read, or was observed later than `at`.
    """
    try:
        read = ChangeArguments.model_validate(row)
    except ValidationError:
        return None
    observed_at = read.observed_at or at
    return None if observed_at > at else _segment(read, observed_at=observed_at)


def find_instance_id(row: object, *, namespace: Namespace) -> UUID | None:
    """Return the session of a row, even if the rest of the row cannot be read, or None."""
    try:
        read = parse_id(row["instance_id"], NameKind.SESSION) if isinstance(row, dict) else None
        return None if read is None else UUID(resolve(read, namespace))
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def find_source(row: object) -> str | None:
    """Return the source that a row names, even if the rest of the row cannot be read, or None."""
    try:
        return _SOURCE.validate_python(row["source"]) if isinstance(row, dict) else None
    except (KeyError, ValidationError):
        return None


def _report(
    index: int, row: ReportArguments, *, at: datetime, namespace: Namespace, source: str | None
) -> SessionReport:
    instance_id, user_id, attribution_id = ids = row.instance_id, row.user_id, row.attribution_id
    names: Sequence[ExternalName] = ()
    if ExternalId in map(type, ids):
        instance_id, user_id, attribution_id = (resolve(each, namespace) for each in ids)
        names = tuple(each.named(namespace()) for each in ids if isinstance(each, ExternalId))
    observed_at = row.observed_at or at
    return SessionReport(
        index=index,
        instance_id=UUID(instance_id),
        workspace_id=row.workspace_id,
        user_id=UUID(user_id),
        attribution_id=AttributionId(attribution_id),
        workspace_class=row.workspace_class,
        created_at=row.created_at,
        started_at=row.started_at,
        stopping_at=row.stopping_at,
        stopped_at=row.stopped_at,
        observed_at=observed_at,
        source=row.source or source,
        segments=tuple(_segment(each, observed_at=observed_at) for each in row.segments),
        state=row.state,
        present=source is not None and not row.segments,
        names=names,
    )


def _segment(read: SegmentArguments, *, observed_at: datetime) -> Segment:
    return Segment(
        begins_at=read.begins_at, observed_at=observed_at, workspace_class=read.workspace_class, state=read.state
    )


def _rejection(index: int, row: object, error: ValidationError) -> Rejection:
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"])) or "report"
    if not isinstance(row, dict):
        return Rejection(index=index, field="report", reason=f"must be an object (got {show(row)})")
    if first["type"] == "missing":
        stopped = next((name for name in ("stopped_at", "stopping_at") if row.get(name)), None)
        tail = f", although {stopped} is given" if field == "started_at" and stopped else ""
        return Rejection(index=index, field=field, reason=f"must be given{tail} (got nothing)")
    return Rejection(index=index, field=ascii(field)[1:-1], reason=describe(first))
