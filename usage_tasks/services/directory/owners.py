"""Who is responsible for an account's money."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, AccountKind
from usage_tasks.storage.directory import people


def owners_of(connection: Connection, account: Account) -> Sequence[UUID]:
    """List who is responsible: a user themselves, or a team's owners; nobody where the directory knows none."""
    if account.kind is AccountKind.USER:
        return [account.entity_id]
    return people.list_owners(connection, account.entity_id)
