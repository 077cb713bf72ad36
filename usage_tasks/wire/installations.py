"""Installations: a database and the workers, beats and receivers that belong to it.

Its id is in the database and in Redis; a message in a Redis of another id is not ours to take.
"""

from dataclasses import dataclass
from typing import Final

SHOWN_MAX: Final = 120
UNKNOWN_SERVER: Final = "unknown"
"""The server's part of `database` for a role that may not read the server's identifier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstallationIdentity:
    """An id, a UUID as text, and the database that has it. A copy of a database has the same id in another database."""

    installation_id: str
    database: str

    def __str__(self) -> str:
        """Return the text that stands in Redis: `<id>@<database>`."""
        return f"{self.installation_id}@{self.database}"


def is_same(ours: InstallationIdentity, held: str) -> bool:
    """Return True if the text in Redis names this installation.

    A server that one of the two roles may not identify, the owner of the tables or a worker's, may be any server.
    """
    if held == str(ours):
        return True
    held_id, _, database = held.partition("@")
    (held_server, _, held_oid), (server, _, oid) = database.partition("/"), ours.database.partition("/")
    return (held_id, held_oid) == (ours.installation_id, oid) and UNKNOWN_SERVER in {held_server, server}


def installation_id_of(held: str) -> str:
    """Return the id in the text in Redis."""
    return held.partition("@")[0][:SHOWN_MAX]


def describe_foreign(ours: InstallationIdentity, held: str, *, redis: str, database: str) -> str:
    """Return the line for an operator whose process found another installation in Redis; URLs without passwords."""
    copied = installation_id_of(held) == ours.installation_id
    found = f"{'this installation in another database' if copied else 'another installation'}, {held[:SHOWN_MAX]}"
    advice = (
        "if this database is a copy, run usage-tasks installation new with another redis.prefix or Redis; if it "
        "replaces the other one for good"
        if copied
        else "set another redis.prefix or another Redis; if this database replaces the other one for good"
    )
    return (
        f"installation: {redis} belongs to {found}; the database {database} is {ours}: {advice}, "
        "run usage-tasks installation adopt"
    )
