"""What bars an account beside its limit; `domain/bars.py` states the same rule for one account."""

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, AccountKind
from usage_tasks.domain.disputes import SETTLED
from usage_tasks.domain.limits import EntitlementReason
from usage_tasks.storage.rows import fetch_one, sql_list


def find_bar(connection: Connection, account: Account) -> EntitlementReason | None:
    """Answer what bars an account beside its limit: a dispute that stands, or payments that failed for too long.

    A dispute blocks who answers for the account; the account itself where nobody is known who does, or it is theirs.
    After one that was lost a person decides, and nobody tells us what.
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
