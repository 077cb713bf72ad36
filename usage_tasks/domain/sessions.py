"""A platform's report of a session, and the reasons to refuse it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NamedTuple
from uuid import UUID

from usage_tasks.domain.accounts import AttributionId, ExternalName
from usage_tasks.domain.prices import State
from usage_tasks.domain.timelines import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """The facts of one session as seen at `observed_at`; of two reports the one observed later holds.

    `index` is the report's place in its batch. `stopping_at` ends what is billed, `stopped_at` makes it final.
    `source` names the cluster or region that runs it, if the sender gives it. `workspace_class` is the class at the
    start, `segments` has what followed. If it has only the `present`, as a row of a snapshot has its class and
    `state`, the class at the start is inferred. `names` are the external ids in it.
    """

    index: int
    instance_id: UUID
    workspace_id: str
    user_id: UUID
    attribution_id: AttributionId
    workspace_class: str
    created_at: datetime | None
    started_at: datetime
    stopping_at: datetime | None
    stopped_at: datetime | None
    observed_at: datetime
    source: str | None = None
    segments: tuple[Segment, ...] = ()
    state: State | None = None
    present: bool = False
    names: Sequence[ExternalName] = ()

    @property
    def fixed(self) -> "FixedFacts":
        """What it says of the facts that no later report changes, and when that was seen."""
        reported_at = NEVER if self.present else self.observed_at
        return FixedFacts(self.observed_at, reported_at, self.workspace_class, self.user_id)

    def agrees(self, held: "FixedFacts") -> bool:
        """Return whether it says of the fixed facts what holds."""
        return (self.workspace_class, self.user_id) == (held.workspace_class, held.user_id)


NEVER: Final = datetime(9999, 1, 1, tzinfo=UTC)
"""When the start of a session was reported of which only the present is known."""


class FixedFacts(NamedTuple):
    """The class at a session's start and its user, when the session was first seen, and its start first reported.

    The user of the earliest observation holds; of the reports of this user's session, the class at the start of the
    earliest. What is inferred from the present yields to it. Source: docs/adr/0034-timelines.md.
    """

    observed_at: datetime
    reported_at: datetime
    workspace_class: str
    user_id: UUID

    @property
    def inferred(self) -> bool:
        """Whether no report has the start."""
        return self.reported_at == NEVER

    @property
    def by_user(self) -> tuple[datetime, str, UUID]:
        """The least decides about the user."""
        return self.observed_at, self.workspace_class, self.user_id

    @property
    def by_start(self) -> tuple[datetime, datetime, str]:
        """The least decides about the class at the start, among those of one user."""
        return self.reported_at, self.observed_at if self.inferred else self.reported_at, self.workspace_class


def choose_first(reports: Sequence[SessionReport], held: FixedFacts | None = None) -> SessionReport | None:
    """Return which of the reports of a session decides about its fixed facts; None if what is held does."""
    facts = [report.fixed for report in reports] + ([] if held is None else [held])
    earliest: FixedFacts = min(facts, key=lambda each: each.by_user)
    user_id = earliest.user_id
    same = [report for report in reports if report.user_id == user_id]
    first = min(same, key=lambda each: each.fixed.by_start, default=None)
    if held is None or held.user_id != user_id or first is None:
        return first
    other = first.workspace_class != held.workspace_class
    return first if other and first.fixed.by_start < held.by_start else None


class CapReason(StrEnum):
    """Why a running session accrues no further: no proof of life within the grace, or older than a session may be."""

    HEARTBEAT = "heartbeat"
    LIFETIME = "lifetime"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """Why one report of a batch was not taken: its place in the batch, the field and the reason."""

    index: int
    field: str
    reason: str
