"""The table of SQLSTATEs: what each error of PostgreSQL means for the work that met it (docs/database-errors.md).

Another attempt is harmless: tasks are idempotent, attempts are bounded. Giving up loses a message that was accepted. So
an error is permanent only if nothing but the statement or its values can be the cause.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Treatment(StrEnum):
    """The reaction to an error."""

    PERMANENT = "permanent"
    """The same statement fails again."""
    TRANSIENT = "transient"
    """A later attempt may succeed, on the same connection."""
    RECONNECT = "transient, new connection"
    """A later attempt may succeed, but not on this connection: it leads to the wrong server or lost its session."""
    SETTINGS = "settings"
    """The server does not accept the address or the user of the settings. A worker tries again, a command gives up."""


class Rule(NamedTuple):
    """A treatment and its reason in one line."""

    treatment: Treatment
    reason: str


_PERMANENT, _TRANSIENT, _RECONNECT, _SETTINGS = Treatment

_STATEMENT: Final = Rule(_PERMANENT, "the statement is wrong")
_SCHEMA: Final = Rule(_TRANSIENT, "the schema is not the one of this version: run usage-tasks migrate, or wait for it")

CLASSES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "02": _STATEMENT,
        "03": _STATEMENT,
        "08": Rule(_RECONNECT, "the connection is broken, or its protocol is"),
        "09": _STATEMENT,
        "0A": Rule(_PERMANENT, "the server lacks the feature"),
        "0B": _STATEMENT,
        "0F": _STATEMENT,
        "0L": _STATEMENT,
        "0P": _STATEMENT,
        "0Z": _STATEMENT,
        "10": _STATEMENT,
        "20": _STATEMENT,
        "21": Rule(_PERMANENT, "the values give two rows where one may be"),
        "22": Rule(_PERMANENT, "the value is wrong"),
        "23": Rule(_PERMANENT, "a constraint refuses the values"),
        "24": _STATEMENT,
        "25": Rule(_PERMANENT, "the statement does not fit into its transaction"),
        "26": Rule(_RECONNECT, "a pooler gave the session away, and the prepared statement with it"),
        "27": _STATEMENT,
        "28": Rule(_SETTINGS, "wrong user or password, or they are being rotated"),
        "2B": _STATEMENT,
        "2D": _STATEMENT,
        "2F": _STATEMENT,
        "34": Rule(_RECONNECT, "a pooler gave the session away, and the cursor with it"),
        "38": _STATEMENT,
        "39": _STATEMENT,
        "3B": _STATEMENT,
        "3D": Rule(_SETTINGS, "unknown database, or it is being restored"),
        "3F": _SCHEMA,
        "40": Rule(_TRANSIENT, "two transactions were in each other's way"),
        "42": _STATEMENT,
        "44": Rule(_PERMANENT, "a constraint refuses the values"),
        "53": Rule(_TRANSIENT, "the server lacks disk, memory or connections"),
        "54": Rule(_PERMANENT, "the values are too large for the statement"),
        "55": Rule(_TRANSIENT, "an object is in use, or not ready yet"),
        "57": Rule(_RECONNECT, "an operator stopped the server or ended the session"),
        "58": Rule(_RECONNECT, "the server's disk or system failed; a failover helps"),
        "72": Rule(_TRANSIENT, "the snapshot is too old; the next attempt has a new one"),
        "F0": Rule(_TRANSIENT, "the server's configuration file is wrong or being changed"),
        "HV": Rule(_PERMANENT, "a foreign data wrapper refuses the statement"),
        "P0": Rule(_PERMANENT, "a trigger of ours refuses the change"),
        "XX": Rule(_RECONNECT, "the server has a fault of its own"),
    }
)
"""By the first two characters."""

STATES: Final[Mapping[str, Rule]] = MappingProxyType(
    {
        "08004": Rule(_SETTINGS, "the connection is refused because of its settings"),
        "25006": Rule(_RECONNECT, "the server is read-only: after a failover it is the old primary, or a replica"),
        "25P02": Rule(_TRANSIENT, "an earlier statement failed; a new attempt shows its error"),
        "25P03": Rule(_RECONNECT, "the transaction was idle for too long, and the server ended the session"),
        "25P04": Rule(_RECONNECT, "the transaction took too long, and the server ended the session"),
        "40002": Rule(_PERMANENT, "a constraint refuses the values"),
        "40003": Rule(_RECONNECT, "unknown if it is committed; a natural key keeps the effect from being made twice"),
        "42501": Rule(_SETTINGS, "the user lacks a privilege, or grants are being changed"),
        "42703": _SCHEMA,
        "42704": _SCHEMA,
        "42804": _SCHEMA,
        "42809": _SCHEMA,
        "42883": _SCHEMA,
        "428C9": _SCHEMA,
        "42P01": _SCHEMA,
        "42P05": Rule(_RECONNECT, "a pooler gave another session, which has a prepared statement of this name"),
        "42P10": _SCHEMA,
        "55P02": Rule(_SETTINGS, "an option of the connection cannot be set"),
        "55P04": _STATEMENT,
        "57014": Rule(_TRANSIENT, "the statement took too long, or an operator cancelled it"),
        "HV001": Rule(_TRANSIENT, "the foreign server lacks memory"),
        "HV00N": Rule(_TRANSIENT, "the foreign server is away"),
        "XX001": Rule(_PERMANENT, "data are damaged: repair them before money moves"),
        "XX002": Rule(_PERMANENT, "an index is damaged: repair it before money moves"),
    }
)
"""The states that are treated otherwise than their class, or for another reason."""

CACHED_PLAN: Final = Rule(_RECONNECT, "a migration changed the result of a prepared statement")
"""0A000 too. Its words are in the server's language, but the place in the server's source is the same in each."""
CACHED_PLAN_SOURCE: Final = "RevalidateCachedQuery"

UNKNOWN: Final = Rule(_RECONNECT, "unknown; another attempt is bounded and loses nothing")
"""The rule of a state whose class is not in the table: of a pooler, an extension or a later version."""


def find_rule(sqlstate: str, *, source_function: str | None = None) -> Rule:
    """Return the rule of a SQLSTATE: its own, else the one of its class, else UNKNOWN.

    `source_function` is the function of the server that raised the error, as far as it is known.
    """
    if sqlstate == "0A000" and source_function == CACHED_PLAN_SOURCE:
        return CACHED_PLAN
    return STATES.get(sqlstate) or CLASSES.get(sqlstate[:2]) or UNKNOWN


def needs_new_connection(rule: Rule) -> bool:
    """True if the connection is not to be used again after an error with this rule."""
    return rule.treatment in {Treatment.RECONNECT, Treatment.SETTINGS}
