"""Rows that wait for an operator, and rows that have waited for a task for too long."""

from datetime import timedelta
from typing import Final

from usage_tasks.commands.operations.findings.finding import Examination, Findings, count, fine, look, wrong
from usage_tasks.storage.inbox.review import list_events
from usage_tasks.storage.operations.evidence import StuckRows, read_stuck
from usage_tasks.storage.payments.parked import list_parked
from usage_tasks.storage.sessions.quarantine import count_waiting, list_quarantined

SHOWN_MAX: Final = 3
STUCK_AFTER: Final = timedelta(minutes=10)
"""Sweeps come every minute, and no task takes longer."""

_WORKER: Final = "`celery -A usage_tasks worker -Q"


def look_at_set_aside(it: Examination) -> Findings:
    """Look for parked accounts, refused reports and parked events, which only an operator can free."""
    with it.rt.transaction() as connection:
        accounts = list_parked(connection, limit=100)
        refused, newest = count_waiting(connection), list_quarantined(connection, limit=1)
        events = list_events(connection, state="parked", kind=None, limit=100)
    if accounts:
        shown = "; ".join(f"{each.attribution_id}: {each.reason}" for each in accounts[:SHOWN_MAX])
        found = f"{_several(len(accounts), 'account')} without reports to Stripe: {shown}"
        yield wrong(
            "parked",
            found,
            "Mend the reason in Stripe, then `usage-tasks parked release ACCOUNT`; `usage-tasks parked list`.",
        )
    else:
        yield fine("parked", "no account")
    if refused:
        shown = "".join(f", such as {each.field}: {each.reason}" for each in newest)
        yield wrong(
            "quarantine",
            f"{count(refused, 'refused report')} of sessions{shown}",
            "They bill nothing. See `usage-tasks quarantine`, then `usage-tasks quarantine release` or "
            "`usage-tasks quarantine drop`.",
        )
    else:
        yield fine("quarantine", "empty")
    if events:
        shown = "; ".join(f"{each.event_id} {each.type}: {each.outcome}" for each in events[:SHOWN_MAX])
        yield wrong(
            "inbox",
            f"{_several(len(events), 'parked event')} of Stripe: {shown}",
            "See `usage-tasks webhooks list`, then `usage-tasks webhooks replay ID --apply` or "
            "`usage-tasks webhooks drop ID --reason WHY --apply`.",
        )
    else:
        yield fine("inbox", "no parked event")


def look_at_stuck(it: Examination) -> Findings:
    """Look for rows that a task should have taken long ago."""
    with it.rt.transaction() as connection:
        stuck = read_stuck(connection, after=STUCK_AFTER)
    yield from _waiting(stuck)
    if stuck.actions:
        yield look(
            "actions",
            f"{count(stuck.actions, 'action')} of Stripe in doubt for over 10 minutes, such as {stuck.action}",
            "Ask again, nothing is done twice: `usage-tasks invoices finalize ACCOUNT INVOICE` or "
            "`usage-tasks invoices cancel-subscription ACCOUNT`.",
        )
    if stuck.holds:
        yield look(
            "holds",
            f"{count(stuck.holds, 'hold')} on a card not released for over 10 minutes",
            f"Is a worker of its queue alive ({_WORKER} billing`)? Its log has the reason.",
        )


def _waiting(stuck: StuckRows) -> Findings:
    if stuck.announcements:
        yield wrong(
            "outbox",
            f"{count(stuck.announcements, 'announcement')} not sent to the platform for over 10 minutes",
            f"Is a beat alive (`usage-tasks health beat`), and a worker of its queue ({_WORKER} maintenance`)?",
        )
    else:
        yield fine("outbox", "nothing waits for long")
    if stuck.events:
        reason = f", such as {stuck.event}" if stuck.event else ""
        yield wrong(
            "inbox",
            f"{count(stuck.events, 'event')} of Stripe not applied for over 10 minutes{reason}",
            f"See `usage-tasks webhooks list --state pending`. Is a worker of its queue alive ({_WORKER} stripe`)?",
        )
    if stuck.reports:
        reason = f", such as {stuck.report}" if stuck.report else ""
        yield look(
            "reports",
            f"{count(stuck.reports, 'meter report')} not taken by Stripe for over 10 minutes{reason}",
            f"Run `usage-tasks check-stripe`. They are sent again by themselves, by {_WORKER} billing`.",
        )


def _several(number: int, noun: str) -> str:
    return f"{number} or more {noun}s" if number >= 100 else count(number, noun)  # noqa: PLR2004 - the page's size
