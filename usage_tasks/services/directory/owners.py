"""The users responsible for an account's money."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, AccountKind
from usage_tasks.storage.directory import people


def owners_of(connection: Connection, account: Account) -> Sequence[UUID]:
    """List the responsible users: the user of a personal account, or the owners of a team that the directory knows."""
    if account.kind is AccountKind.USER:
        return [account.entity_id]
    return people.list_owners(connection, account.entity_id)
