"""Dunning states: judged from invoices whose payment failed, announced once a step."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor, AttributionId
from usage_tasks.domain.announcements import (
    DunningMessage,
    PaymentFailed,
    PaymentReminder,
    PaymentSettled,
    ResumeAccount,
    SuspendAccount,
)
from usage_tasks.domain.dunning import DunningPolicy
from usage_tasks.storage.operations.audit import auditing
from usage_tasks.storage.operations.outbox import announcing, payload_of
from usage_tasks.storage.rows import fetch

_TOLD = announcing(
    "step WHERE announced IS NOT NULL ORDER BY attribution_id",
    name="announced",
    once_per=(
        "attribution_id",
        "trim_scale(extract(epoch FROM failing_since))",
        "reminders",
        "trim_scale(extract(epoch FROM CAST(:at AS timestamptz)))",
    ),
    payload=payload_of(DunningMessage, {"at": "CAST(:at AS timestamptz)"}),
)
_AUDITED = auditing(
    "step ORDER BY attribution_id",
    action="dunning.advance",
    at=":at",
    details="""jsonb_build_object('state', jsonb_build_array(COALESCE(former, 'none'), state),
                                  'failing_since', failing_since, 'reminders', reminders)""",
)

# A reminder is due at the end of the grace and at regular intervals after it; of several missed reminders only the last
# is announced. The table is its own memory: of two workers the second waits for the row and then changes nothing.
# Nothing moves back in time. Both changes see the table as it was before the statement.
_ADVANCE = f"""
    WITH failing AS (
        SELECT attribution_id, min(failed_at) AS since FROM stripe_invoice
        WHERE failed_at IS NOT NULL AND status IN ('open', 'uncollectible')
            AND (CAST(:only AS text) IS NULL OR attribution_id = :only)
        GROUP BY attribution_id
    ), judged AS (
        SELECT attribution_id, since, CASE
                   WHEN :at >= since + CAST(:suspend_after AS interval) THEN 'suspended'
                   WHEN :at >= since + CAST(:grace AS interval) THEN 'reminder'
                   ELSE 'grace'
               END AS state,
               CASE WHEN :at < since + CAST(:grace AS interval) THEN 0 ELSE 1 + floor(
                   extract(epoch FROM LEAST(:at, since + CAST(:suspend_after AS interval))
                       - since - CAST(:grace AS interval))
                   / extract(epoch FROM CAST(:reminder_every AS interval))
               )::int END AS reminders
        FROM failing WHERE :enabled
    ), kept AS (
        INSERT INTO dunning AS held (attribution_id, state, failing_since, reminders, changed_at)
        SELECT attribution_id, state, since, reminders, :at FROM judged ORDER BY attribution_id
        ON CONFLICT (attribution_id) DO UPDATE
        SET state = EXCLUDED.state, failing_since = EXCLUDED.failing_since, reminders = EXCLUDED.reminders,
            changed_at = EXCLUDED.changed_at
        WHERE EXCLUDED.changed_at >= held.changed_at AND (held.state, held.failing_since, held.reminders)
            IS DISTINCT FROM (EXCLUDED.state, EXCLUDED.failing_since, EXCLUDED.reminders)
        RETURNING attribution_id, state, failing_since, reminders
    ), ended AS (
        DELETE FROM dunning AS held
        WHERE (CAST(:only AS text) IS NULL OR attribution_id = :only)
            AND NOT EXISTS (SELECT 1 FROM judged j WHERE j.attribution_id = held.attribution_id)
        RETURNING attribution_id, failing_since
    ), change AS (
        SELECT attribution_id, state, failing_since, reminders FROM kept
        UNION ALL
        SELECT attribution_id, 'none', failing_since, 0 FROM ended
    ), step AS (
        SELECT c.attribution_id, c.state, c.failing_since, c.reminders, former.state AS former, CASE
                   WHEN c.state = 'suspended' AND former.state IS DISTINCT FROM 'suspended' THEN '{SuspendAccount.name}'
                   WHEN c.state <> 'suspended' AND former.state = 'suspended' THEN '{ResumeAccount.name}'
                   WHEN c.state = 'none' THEN '{PaymentSettled.name}'
                   WHEN c.state = 'reminder' AND c.reminders > COALESCE(former.reminders, 0)
                       THEN '{PaymentReminder.name}'
                   WHEN c.state = 'grace' AND former.state IS NULL THEN '{PaymentFailed.name}'
               END AS announced
        FROM change c LEFT JOIN dunning former USING (attribution_id)
    ), told AS (
        {_TOLD}
    ), audited AS (
        {_AUDITED}
    )
    SELECT COALESCE(announced, 'unannounced') AS announced, count(*) AS steps FROM step GROUP BY 1
"""


def advance(
    connection: Connection,
    *,
    at: datetime,
    policy: DunningPolicy | None,
    actor: Actor,
    only: AttributionId | None = None,
) -> Mapping[str, int]:
    """Judge the failed payments of every account, or of one, at an instant. Return the number of steps by announcement.

    The keys are the names of messages, and "unannounced". Without a policy nobody is dunned, and open dunning ends.
    """
    held = policy or DunningPolicy(grace=timedelta(0), reminder_every=timedelta(days=1), suspend_after=timedelta(0))
    rows = fetch(
        connection,
        _ADVANCE,
        at=at,
        enabled=policy is not None,
        grace=held.grace,
        reminder_every=held.reminder_every,
        suspend_after=held.suspend_after,
        actor=actor,
        only=only,
    )
    return {row.announced: row.steps for row in rows}
