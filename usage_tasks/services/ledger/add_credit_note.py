"""Give an account credits, or charge it, by hand: one entry a caller's key."""

from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Account, Actor
from usage_tasks.domain.cost_centers import SpendingLimits
from usage_tasks.domain.credits import CreditCents
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.domain.ledger import EntryKind, note_key
from usage_tasks.services.ledger.cost_center import open_accounts
from usage_tasks.storage.ledger import cost_centers, entries
from usage_tasks.storage.ledger.entries import Entry
from usage_tasks.storage.operations import audit


def add_credit_note(
    connection: Connection,
    account: Account,
    *,
    amount: CreditCents,
    description: str,
    idempotency_key: str,
    user_id: UUID | None,
    limits: SpendingLimits,
    at: datetime,
    actor: Actor,
) -> Entry:
    """Take an amount off an account's balance, from `at` on; a negative amount is charged. Return the stored entry.

    The same key again changes nothing, whenever it comes; with another content it is an InvalidInputError.
    """
    note = Entry(
        attribution_id=account.attribution_id,
        key=note_key(idempotency_key),
        kind=EntryKind.CREDIT_NOTE,
        credit_cents=-amount,
        effective_at=at,
        description=description,
        user_id=user_id,
    )
    open_accounts(connection, [account.attribution_id], limits=limits, at=at, actor=actor)
    # Always the cost center before the balance, as resets and switches do: no two wait for one another.
    cost_centers.lock_current(connection, account.attribution_id)
    if not entries.append_entries(connection, [note]):
        held = entries.get_entry(connection, account.attribution_id, note.key)
        if held != replace(note, effective_at=held.effective_at):
            allowed = f"a new key: this key belongs to a note of {-held.credit_cents} cents, {held.description!r}"
            raise InvalidInputError("idempotency_key", idempotency_key, allowed)
        return held
    audit.append_audit(
        connection,
        at=at,
        actor=actor,
        action="credit_note.add",
        attribution_id=account.attribution_id,
        details={"key": note.key, "credit_cents": note.credit_cents, "user_id": user_id},
    )
    return note
