"""Reports cut into batches whose task ids follow from what they hold, and what became of them. Nothing is sent here."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Final

BATCH: Final = 1_000
_NAMED_MAX: Final = 5

Report = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Reports on their way as one message: its task id, its arguments, and where in the caller's list it begins."""

    task_id: str
    arguments: Mapping[str, Any]
    begin: int

    def __str__(self) -> str:
        return f"reports {self.begin} to {self.begin + len(self.arguments['instances']) - 1} (task {self.task_id})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """How many reports ended how; a rejection has the index in the caller's list, the field and the reason."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    quarantined: int = 0
    rejections: tuple[Mapping[str, Any], ...] = ()


class UnconfirmedError(Exception):
    """No answer confirms that these batches were recorded. They may have been: sending them again does no harm."""

    def __init__(self, batches: Sequence[Batch], *, recorded: Recorded, reason: str) -> None:
        shown = "; ".join(map(str, batches[:_NAMED_MAX]))
        more = f" and {len(batches) - _NAMED_MAX} more" if len(batches) > _NAMED_MAX else ""
        super().__init__(f"{len(batches)} batches are unconfirmed, {reason}: {shown}{more}")
        self.batches = batches
        self.recorded = recorded


class RefusedError(UnconfirmedError):
    """The installation refuses the first of these batches as it is; the others are not confirmed.

    The same batch gets the same answer however often it is sent.
    """


def prepare(reports: Sequence[Report], *, actor: str, at: datetime | None = None) -> Sequence[Batch]:
    """Cut reports into batches whose task ids follow from what they hold."""
    now = datetime.now(timezone.utc).isoformat()
    stamped = [{**report, "observed_at": report.get("observed_at") or _text(at) or now} for report in reports]
    return [_batch(stamped[begin : begin + BATCH], begin, actor, at) for begin in range(0, len(stamped), BATCH)]


def _batch(instances: Sequence[Report], begin: int, actor: str, at: datetime | None) -> Batch:
    arguments = {"instances": list(instances), "actor": actor} | ({} if at is None else {"at": _text(at)})
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()
    return Batch(task_id=f"record-{digest[:40]}", arguments=arguments, begin=begin)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
