"""A platform's report of a session, and the reasons to refuse it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from usage_tasks.domain.accounts import AttributionId, ExternalName
from usage_tasks.domain.states import State
from usage_tasks.domain.timelines import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionReport:
    """The facts of one session as seen at `observed_at`; of two reports the one observed later holds.

    `index` is the report's place in its batch. `stopping_at` ends what is billed, `stopped_at` makes it final.
    `source` names the cluster or region that runs it, if the sender gives it. `workspace_class` is the class at the
    start, `segments` has what followed, and `state` is the present one in a row of a snapshot. `names` are the external
    ids in it.
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
    names: Sequence[ExternalName] = ()

    @property
    def fixed(self) -> "FixedFacts":
        """What it says of the facts that no later report changes, and when that was seen."""
        return FixedFacts(self.observed_at, self.workspace_class, self.user_id)

    def agrees(self, held: "FixedFacts") -> bool:
        """Return whether it says of the fixed facts what holds."""
        return (self.workspace_class, self.user_id) == (held.workspace_class, held.user_id)


class FixedFacts(NamedTuple):
    """The class at a session's start and its user: of two the least holds, that of the earliest report."""

    observed_at: datetime
    workspace_class: str
    user_id: UUID


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
