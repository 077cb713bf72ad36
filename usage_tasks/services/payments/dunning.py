"""Let time pass for accounts whose payment failed: grace, reminders, suspension; each step announced once."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.announcements import (
    PaymentFailed,
    PaymentReminder,
    PaymentSettled,
    ResumeAccount,
    SuspendAccount,
)
from usage_tasks.domain.dunning import DunningPolicy
from usage_tasks.storage.payments import dunning

_ACTOR = Actor("service:billing.advance_dunning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dunned:
    """How many accounts took a step, by what the platform hears of it."""

    payments_failed: int
    reminders: int
    suspended: int
    resumed: int
    settled: int


def advance_dunning(connection: Connection, *, at: datetime, policy: DunningPolicy | None) -> Dunned:
    """Take every account's dunning step that is due at an instant. Without a policy, end all dunning."""
    steps = dunning.advance(connection, at=at, policy=policy, actor=_ACTOR)
    return Dunned(
        payments_failed=steps.get(PaymentFailed.name, 0),
        reminders=steps.get(PaymentReminder.name, 0),
        suspended=steps.get(SuspendAccount.name, 0),
        resumed=steps.get(ResumeAccount.name, 0),
        settled=steps.get(PaymentSettled.name, 0),
    )
