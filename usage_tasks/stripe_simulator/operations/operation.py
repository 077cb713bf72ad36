"""The input of every operation, and the few moves that all of them make."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from usage_tasks.stripe_simulator.state.world import World
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.params import Spec
from usage_tasks.stripe_simulator.wire.wire import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request that has been read: its parameters, and the id its path names."""

    world: World
    params: JsonObject
    path: str
    subject: str = ""


Answer: TypeAlias = JsonObject | ApiError
"""A returned error keeps the effects, as a declined payment does; a raised error undoes them."""

Handler: TypeAlias = Callable[[Call], Answer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A method and a path of the API, `{id}` standing for the id of an object."""

    method: str
    path: str
    spec: Spec
    handle: Handler


def merge_metadata(current: JsonObject, params: JsonObject) -> JsonObject:
    """Stripe's update of metadata: keys are merged, an empty value removes its key, an empty string all of them."""
    if "metadata" not in params:
        return current
    if params["metadata"] is None:
        return {}
    return {key: value for key, value in {**current, **params["metadata"]}.items() if value != ""}


def pick(params: JsonObject, *names: str) -> JsonObject:
    """Return the named parameters that were given. An unset parameter is there with None."""
    return {name: params[name] for name in names if name in params}
