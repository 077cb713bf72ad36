"""The messages to the platform: each is a Celery task on the queue `server`; the fields are its keyword arguments.

Names, fields and types are a public interface, which `usage-tasks schemas` exports. Some messages are composed within
an SQL statement: storage takes their names and fields from here too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, Literal
from uuid import UUID

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.domain.disputes import DisputeId
from usage_tasks.domain.dunning import DunningState
from usage_tasks.domain.limits import Crossing
from usage_tasks.domain.payments import StripeInvoiceId
from usage_tasks.domain.reversals import RefundId

PREFIX: Final = "server."
"""How every name begins; the platform routes by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """A message to the platform about one account."""

    name: ClassVar[str]
    attribution_id: AttributionId


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLevelReached(Announcement):
    """A balance has reached a level, in credit cents; `percent` is that level's part of the limit, in credits.

    `percent` is null only for a hard limit above a limit of 0.
    """

    percent: int | None
    balance_cents: int
    spending_limit: int
    level_cents: int
    cycle_started_at: datetime
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageThresholdReached(UsageLevelReached):
    """A balance has reached a part of the limit: one of `limitThresholds`, or of the account's own. Notify people."""

    name: ClassVar[str] = "server.usage_threshold_reached"
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLimitReached(UsageLevelReached):
    """A balance has reached the limit. Notify people."""

    name: ClassVar[str] = "server.usage_limit_reached"
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageHardLimitReached(UsageLevelReached):
    """A balance has reached the limit and `hardLimitGrace`: stop the running sessions of the account.

    `percent` is null for a limit of 0.
    """

    name: ClassVar[str] = "server.usage_hard_limit_reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountDisputed(Announcement):
    """A message that a dispute in Stripe causes."""

    stripe_dispute_id: DisputeId
    reason: Literal["dispute"] = "dispute"
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UserDisputed(AccountDisputed):
    """The same for one user, who owns the account."""

    user_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockUser(UserDisputed):
    """Block a user: a dispute stands against their account, or against a team that they own."""

    name: ClassVar[str] = "server.block_user"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnblockUser(UserDisputed):
    """Unblock a user: no dispute blocks them any more."""

    name: ClassVar[str] = "server.unblock_user"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAccount(AccountDisputed):
    """Block the owners of the account: it has an open dispute, and the directory names no owner."""

    name: ClassVar[str] = "server.block_account"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnblockAccount(AccountDisputed):
    """Unblock the owners of the account: no dispute blocks it any more."""

    name: ClassVar[str] = "server.unblock_account"


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundFailed(Announcement):
    """A refund came back: pay the customer in another way. `amount` is in currency cents."""

    name: ClassVar[str] = "server.refund_failed"
    stripe_refund_id: RefundId
    stripe_invoice_id: StripeInvoiceId | None
    amount: int
    currency: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DunningMessage(Announcement):
    """A step of dunning: the state that it leads to, the first failed payment, how many reminders were due.

    The state is "none" of an account without a failed payment.
    """

    state: DunningState | Literal["none"]
    failing_since: datetime
    reminders: int
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentFailed(DunningMessage):
    """A payment of the account failed: dunning begins. Notify people."""

    name: ClassVar[str] = "server.payment_failed"
    state: Literal[DunningState.GRACE]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentReminder(DunningMessage):
    """A reminder is due: the payment is still missing. Notify people."""

    name: ClassVar[str] = "server.payment_reminder"
    state: Literal[DunningState.REMINDER]


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendAccount(DunningMessage):
    """Suspend the account: the payment is missing for too long. Stop its running sessions."""

    name: ClassVar[str] = "server.suspend_account"
    state: Literal[DunningState.SUSPENDED]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeAccount(DunningMessage):
    """Resume an account that was suspended."""

    name: ClassVar[str] = "server.resume_account"
    state: Literal[DunningState.GRACE, DunningState.REMINDER, "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentSettled(DunningMessage):
    """No payment is missing any more; the account was not suspended."""

    name: ClassVar[str] = "server.payment_settled"
    state: Literal["none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceNeedsAttention(Announcement):
    """A message about one invoice in Stripe."""

    stripe_invoice_id: StripeInvoiceId


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentActionRequired(InvoiceNeedsAttention):
    """The payer's bank asks the payer to confirm the payment of an invoice: notify the payer."""

    name: ClassVar[str] = "server.payment_action_required"


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceFinalizationFailed(InvoiceNeedsAttention):
    """Stripe cannot finalize an invoice: it stays a draft until it is mended in Stripe."""

    name: ClassVar[str] = "server.invoice_finalization_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountParked(Announcement):
    """The account's quantity cannot be reported to Stripe, for `reason`: mend it, then `usage-tasks parked release`.

    `quantity` and `as_of` are of the report that Stripe refused; null where the account's subscriptions are the cause.
    """

    name: ClassVar[str] = "server.account_parked"
    reason: str
    quantity: int | None
    as_of: datetime | None
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageAlertTriggered(Announcement):
    """An alert was triggered that somebody made in Stripe; `value` is the usage that Stripe names."""

    name: ClassVar[str] = "server.usage_alert_triggered"
    stripe_alert_id: str
    value: int | None
    at: datetime


ANNOUNCEMENTS: Final[Mapping[str, type[Announcement]]] = {
    each.name: each
    for each in (
        UsageThresholdReached,
        UsageLimitReached,
        UsageHardLimitReached,
        BlockUser,
        UnblockUser,
        BlockAccount,
        UnblockAccount,
        RefundFailed,
        PaymentFailed,
        PaymentReminder,
        SuspendAccount,
        ResumeAccount,
        PaymentSettled,
        PaymentActionRequired,
        InvoiceFinalizationFailed,
        AccountParked,
        UsageAlertTriggered,
    )
}
"""Every message that the platform may receive, by its name."""

LEVEL_REACHED: Final[Mapping[Crossing, type[UsageLevelReached]]] = {
    Crossing.THRESHOLD: UsageThresholdReached,
    Crossing.LIMIT: UsageLimitReached,
    Crossing.HARD_LIMIT: UsageHardLimitReached,
}
"""The message of each kind of level."""
