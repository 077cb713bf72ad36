"""Bars of an account beside its limit; `domain/bars.py` states the same rule for one account."""

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, AccountKind
from usage_tasks.domain.disputes import SETTLED
from usage_tasks.domain.limits import EntitlementReason
from usage_tasks.storage.rows import fetch_one, sql_list


def find_bar(connection: Connection, account: Account) -> EntitlementReason | None:
    """Return the bar of an account beside its limit, or None: an open dispute, or payments that failed for too long.

    A dispute blocks the responsible users. It blocks the account itself if no responsible user is known, or if the
    account is their own. After a lost dispute a person decides, and the system never learns the decision.
    """
    statement = f"""
        SELECT CASE
            WHEN EXISTS (
                SELECT 1 FROM stripe_dispute WHERE status NOT IN ({sql_list(SETTLED)})
                    AND (blocked_account AND attribution_id = :account OR CAST(:user AS uuid) = ANY (blocked_user_ids))
            ) THEN 'blocked'
            WHEN EXISTS (SELECT 1 FROM dunning WHERE attribution_id = :account AND state = 'suspended') THEN 'suspended'
        END AS bar
    """
    user_id = account.entity_id if account.kind is AccountKind.USER else None
    bar = fetch_one(connection, statement, account=account.attribution_id, user=user_id).bar
    return None if bar is None else EntitlementReason(bar)
