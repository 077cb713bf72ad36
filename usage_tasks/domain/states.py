"""What a session does in an instant, and the names of the prices of a class in each state."""

from enum import StrEnum
from typing import Final, Literal


class State(StrEnum):
    """What a session does: it runs, it stands still in memory, or it is stopped and something of it is kept."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    STOPPED_KEPT = "stopped_kept"


PricedApart = Literal[State.SUSPENDED, State.STOPPED_KEPT]
"""The states that have a price of their own, beside that of the class, which is of the state `running`."""

_PRICED_APART: Final = frozenset(State) - {State.RUNNING}
RESERVED_ENDS: Final = (*(f":{state}" for state in sorted(_PRICED_APART)), ":timeline")
"""No class may end with these: they make the names of other prices, and of none (storage/pricing/timelines_sql.py)."""


def price_key(workspace_class: str, state: State) -> str:
    """Name the price of a class in a state: `large` while it runs, else such as `large:suspended`."""
    return workspace_class if state is State.RUNNING else f"{workspace_class}:{state}"


def split_price_key(key: str) -> tuple[str, State]:
    """Return the class and the state of a price."""
    name, colon, state = key.rpartition(":")
    return (name, State(state)) if colon and state in _PRICED_APART else (key, State.RUNNING)
