"""Release an account whose reports were set aside: somebody has seen to the reason."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.meter_errors import Verdict
from usage_tasks.services.meter_errors import note
from usage_tasks.storage import meter_queue

_AGE_MAX: Final = timedelta(days=34)
"""Stripe takes events up to 35 days old; the release leaves a day to send it."""

_REPORTS_MAX: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """How many reports of the account are sent anew, and how many were too old for that."""

    sent_anew: int
    dropped: int


def release_account(connection: Connection, attribution_id: AttributionId, *, at: datetime, actor: Actor) -> Released:
    """Let an account's parked reports be sent anew, and its sync go on; nothing where none is parked.

    One that is overtaken or too old for Stripe is dropped: what it said is still open in the ledger, and the next
    report tells it.
    """
    sent_anew = dropped = 0
    for _ in range(_REPORTS_MAX):
        report = meter_queue.lock_report(connection, attribution_id, state="parked")
        if report is None:
            break
        if report.overtaken or report.as_of < at - _AGE_MAX:
            reason = "overtaken by a later one" if report.overtaken else "too old when it was released"
            dropped += meter_queue.drop_report(connection, report, reason=reason)
            verdict = Verdict.DROP
        else:
            sent_anew += meter_queue.send_anew(connection, report, after=timedelta(0), reason="released")
            verdict = Verdict.SEND_ANEW
        note(connection, [report], verdict, reason="released", at=at, actor=actor)
    return Released(sent_anew=sent_anew, dropped=dropped)
