"""Zombies: where the bill of a session that claims to run ends, and which cap stops charging it.

Production caps sessions in one statement, storage/sessions/zombies.py, and computes ends in columns of
workspace_instance. The functions here are their oracle, which production never calls: they state the rules for one
session, and tests/sessions/test_zombies_twin.py holds them equal. Source: docs/adr/0008-proof-of-life.md.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from usage_tasks.domain.sessions import CapReason


@dataclass(frozen=True, slots=True, kw_only=True)
class CapPolicy:
    """`grace` after the last proof of life and `lifetime` after the start charging stops; None switches a bound off."""

    grace: timedelta | None
    lifetime: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cap:
    """A running session is charged up to `at` and no further."""

    at: datetime
    reason: CapReason


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLife:
    """The facts of a session that end its bill.

    `missed_at` is the latest complete snapshot of its source, `last_seen_at` its latest proof of life: an instant that
    the session lacks where it was only ever reported as stopped. `posted`: the ledger has these very facts.
    """

    started_at: datetime
    last_seen_at: datetime | None
    stopping_at: datetime | None = None
    stopped_at: datetime | None = None
    missed_at: datetime | None = None
    cap: Cap | None = None
    heartbeat_released: bool = False
    lifetime_released: bool = False
    posted: bool = False


def inferred_stop(life: SessionLife) -> datetime | None:
    """Return the last proof of life of a session that a later snapshot of its source misses, or None."""
    if life.stopped_at is not None or life.last_seen_at is None or life.missed_at is None:
        return None
    return life.last_seen_at if life.missed_at > life.last_seen_at else None


def final_since(life: SessionLife) -> datetime | None:
    """Return the reported stop, else the inferred one; None while the session runs."""
    return inferred_stop(life) if life.stopped_at is None else life.stopped_at


def billed_until(life: SessionLife) -> datetime | None:
    """Return the instant at which the bill ends, or None if the session goes on costing.

    A reported end holds, the beginning of the stop before its completion; else the earlier of inferred stop and cap.
    """
    reported = life.stopped_at if life.stopping_at is None else life.stopping_at
    if reported is not None:
        return reported
    return _earliest(inferred_stop(life), None if life.cap is None else life.cap.at)


def judge_cap(life: SessionLife, *, at: datetime, policy: CapPolicy) -> Cap | None:
    """Return the cap that a session has after a tick at `at`.

    The earlier bound caps once it is past; where both fall together, the lifetime is the reason. A cap that stands
    stays while its bound is the same, even for a tick that asks about an instant before it; else it moves or goes.
    A reported end, or an inferred stop that is not after the bound, needs no cap. Posted sessions get no new one.
    """
    if life.stopping_at is not None or life.stopped_at is not None or (life.posted and life.cap is None):
        return None
    silent_at = None if life.heartbeat_released else _add(life.last_seen_at, policy.grace)
    old_at = None if life.lifetime_released else _add(life.started_at, policy.lifetime)
    bound = _earliest(silent_at, old_at)
    if bound is None or not (bound < at or (life.cap is not None and life.cap.at == bound)):
        return None
    inferred = inferred_stop(life)
    if inferred is not None and inferred <= bound:
        return None
    return Cap(at=bound, reason=CapReason.LIFETIME if bound == old_at else CapReason.HEARTBEAT)


def release_cap(life: SessionLife) -> SessionLife:
    """Lift a session's cap for good: its reason no longer caps this session. Without a cap nothing changes."""
    if life.cap is None:
        return life
    return replace(
        life,
        cap=None,
        heartbeat_released=life.heartbeat_released or life.cap.reason is CapReason.HEARTBEAT,
        lifetime_released=life.lifetime_released or life.cap.reason is CapReason.LIFETIME,
    )


def _add(moment: datetime | None, span: timedelta | None) -> datetime | None:
    return None if moment is None or span is None else moment + span


def _earliest(*moments: datetime | None) -> datetime | None:
    return min((each for each in moments if each is not None), default=None)
