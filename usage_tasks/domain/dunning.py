"""Dunning: the course of an account whose payment failed: grace, reminders, suspension.

Production takes every account's step in one statement, storage/payments/dunning.py. The functions here
are its oracle, which production never calls: they state the rule for one account, and
tests/payments/test_dunning_twin.py holds the two equal. Source: docs/adr/0015-invoices.md.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from usage_tasks.domain.payments import InvoiceStatus


class DunningState(StrEnum):
    """The state of an account with a failed payment; an account without one has no state."""

    GRACE = "grace"
    REMINDER = "reminder"
    SUSPENDED = "suspended"


class DunningAnnouncement(StrEnum):
    """The name, after `server.`, of the task that announces a step to the platform."""

    PAYMENT_FAILED = "payment_failed"
    PAYMENT_REMINDER = "payment_reminder"
    SUSPEND_ACCOUNT = "suspend_account"
    RESUME_ACCOUNT = "resume_account"
    PAYMENT_SETTLED = "payment_settled"


@dataclass(frozen=True, slots=True, kw_only=True)
class DunningPolicy:
    """From the first payment that failed: silence for `grace`, then a reminder every `reminder_every`, then the end."""

    grace: timedelta
    reminder_every: timedelta
    suspend_after: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoicePayment:
    """The payment of one invoice; `failed_at` is its first failure."""

    status: InvoiceStatus
    failed_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dunning:
    """An account's place in the course; `reminders` counts the reminders that were due so far, missed ones included."""

    state: DunningState
    failing_since: datetime
    reminders: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldDunning:
    """The place that is stored for an account, and the instant of its last step."""

    dunning: Dunning
    changed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DunningStep:
    """A change of an account's place; None is no place. A change that concerns nobody is not announced."""

    former: Dunning | None
    now: Dunning | None
    announced: DunningAnnouncement | None


_UNPAID: Final = frozenset({InvoiceStatus.OPEN, InvoiceStatus.UNCOLLECTIBLE})


def failing_since(payments: Iterable[InvoicePayment]) -> datetime | None:
    """Return the earliest failure among invoices that are still unpaid, or None."""
    failures = (each.failed_at for each in payments if each.status in _UNPAID)
    return min((failed_at for failed_at in failures if failed_at is not None), default=None)


def judge_failing(since: datetime, *, at: datetime, policy: DunningPolicy) -> Dunning:
    """Return the place at `at` of an account that fails since an instant.

    A reminder is due at the end of the grace and every `reminder_every` after it, the last one at the suspension.
    """
    reminded_from, suspended_from = since + policy.grace, since + policy.suspend_after
    reminders = 0
    if at >= reminded_from:
        reminders = 1 + (min(at, suspended_from) - reminded_from) // policy.reminder_every
    if at >= suspended_from:
        state = DunningState.SUSPENDED
    else:
        state = DunningState.REMINDER if at >= reminded_from else DunningState.GRACE
    return Dunning(state=state, failing_since=since, reminders=reminders)


def advance_account(
    held: HeldDunning | None, since: datetime | None, *, at: datetime, policy: DunningPolicy | None
) -> DunningStep | None:
    """Return the step that an account takes at `at`, or None if its place stays as it is.

    `since` is the account's `failing_since`. A sweep that was late moves no place back in time. The course ends at
    once when nothing is unpaid any more, or there is no policy: invoices are known as they are now, not as of `at`.
    """
    former = None if held is None else held.dunning
    now = None if since is None or policy is None else judge_failing(since, at=at, policy=policy)
    late = held is not None and now is not None and at < held.changed_at
    if now == former or late:
        return None
    return DunningStep(former=former, now=now, announced=_announce(former, now))


def _announce(former: Dunning | None, now: Dunning | None) -> DunningAnnouncement | None:
    """Return the announcement of a change. Of several reminders that were missed only the last is announced."""
    was_suspended, is_suspended = _is_suspended(former), _is_suspended(now)
    if was_suspended != is_suspended:
        return DunningAnnouncement.SUSPEND_ACCOUNT if is_suspended else DunningAnnouncement.RESUME_ACCOUNT
    if now is None:
        return DunningAnnouncement.PAYMENT_SETTLED
    if now.state is DunningState.REMINDER and now.reminders > (0 if former is None else former.reminders):
        return DunningAnnouncement.PAYMENT_REMINDER
    if now.state is DunningState.GRACE and former is None:
        return DunningAnnouncement.PAYMENT_FAILED
    return None


def _is_suspended(dunning: Dunning | None) -> bool:
    return dunning is not None and dunning.state is DunningState.SUSPENDED
