"""Natural keys of ledger entries as SQL expressions, from the prefixes of domain/ledger.py.

Arguments are SQL expressions too: columns or parameters. Keys are compared by bytes, so that the keys of one session
are a range of the index: from its id with a colon to its id with a semicolon, the next character.
"""

from typing import Final

from usage_tasks.domain.ledger import CREDIT_NOTE, KeyPrefix

_END: Final = ":"
_AFTER_END: Final = ";"


def session_key(instance_id: str, revision: str) -> str:
    """Write the key of a session's revision."""
    return f"'{KeyPrefix.SESSION}' || {instance_id} || ':' || {revision}"


def invoice_key(stripe_invoice_id: str) -> str:
    """Write the key of a finalized invoice."""
    return f"'{KeyPrefix.INVOICE}' || {stripe_invoice_id}"


def reset_key(cycle_started_at: str) -> str:
    """Write the key of the reset of the cycle that began at an instant: microseconds only where there are some."""
    in_utc = f"{cycle_started_at} AT TIME ZONE 'UTC'"
    return (
        f"'{KeyPrefix.RESET}' || to_char({in_utc}, 'YYYY-MM-DD\"T\"HH24:MI:SS') || "
        f"CASE WHEN {cycle_started_at} <> date_trunc('second', {cycle_started_at}) THEN to_char({in_utc}, '.US') "
        "ELSE '' END || '+00:00'"
    )


def upgrade_key(version: str) -> str:
    """Write the key of the switch that made a version of the cost center."""
    return f"'{KeyPrefix.UPGRADE}' || {version}"


def is_of_session(key: str, instance_id: str) -> str:
    """Write the condition that a key is of a session, as a range of the index."""
    return _range(key, KeyPrefix.SESSION, instance_id)


def is_of_grant(key: str, number: str) -> str:
    """Write the condition that a key is of a grant's number, as a range of the index."""
    return _range(key, KeyPrefix.GRANT, number)


def is_of_any_grant(key: str) -> str:
    """Write the condition that a key is of any grant, as a range of the index."""
    after = KeyPrefix.GRANT.removesuffix(_END) + _AFTER_END
    return f"{key} >= '{KeyPrefix.GRANT}' AND {key} < '{after}'"


def _range(key: str, prefix: KeyPrefix, identifier: str) -> str:
    begins = f"'{prefix}' || {identifier}"
    return f"{key} >= {begins} || '{_END}' AND {key} < {begins} || '{_AFTER_END}'"


def begins_with(key: str, prefix: KeyPrefix) -> str:
    """Write the condition that a key begins so, and that something follows."""
    return f"{key} LIKE '{prefix}_%'"


def is_of_credit_note(key: str, side: str) -> str:
    """Write the condition that a key is of one side, `INVOICED` or `FORGIVEN`, of a credit note in Stripe."""
    return f"{key} LIKE '{KeyPrefix.INVOICE}_%:{CREDIT_NOTE}:_%' || ':' || '{side}'"


def is_credited(key: str) -> str:
    """Write the condition that a key of an invoice is of one of its credit notes."""
    return f"split_part({key}, ':', 3) = '{CREDIT_NOTE}'"


def revision_of(key: str) -> str:
    """Write the revision in the key of a session, as text."""
    return f"split_part({key}, ':', 3)"


def grant_number_of(key: str) -> str:
    """Write the number in the key of a grant, as text."""
    return f"split_part({key}, ':', 2)"


def invoice_id_of(key: str) -> str:
    """Write the invoice's id in the key of an invoice or of its reversal."""
    return f"split_part({key}, ':', 2)"
