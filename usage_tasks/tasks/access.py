"""The gate before every task that takes an actor: by its declaration, so that none can forget it.

Services of the platform pass without a look at the database. A refused call has done nothing: the gate comes first.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Connection

from usage_tasks.domain.access import Role, user_of
from usage_tasks.domain.accounts import Account, Actor, parse_actor, parse_attribution
from usage_tasks.runtime import runtime
from usage_tasks.services.directory import access

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

Judge = Callable[[Connection, Actor, Mapping[str, Any]], tuple[Account | None, Role]]
"""For a task whose account does not stand in `attribution_id`: which account it is, and what is needed there."""

Needs = Role | Judge


def guard(name: str, function: Callable[Parameters, Result], needs: Needs | None) -> Callable[Parameters, Result]:
    """Let a task's function run only for an actor that may; raise AccessError for another.

    Raises TypeError at the declaration of a task that takes an actor or an account and does not declare its needs.
    """
    signature = inspect.signature(function)
    acts, concerns = "actor" in signature.parameters, "attribution_id" in signature.parameters
    if acts != (needs is not None) or (concerns and not acts):
        raise TypeError(f"{name}: a task for an account takes an actor, and one with an actor says what it needs")
    if needs is None:
        return function
    needed = needs

    @wraps(function)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        # A message's arguments have their names; to find those of others costs as much as all of their validation.
        _admit(needed, signature.bind(*args, **kwargs).arguments if args else kwargs)
        return function(*args, **kwargs)

    return guarded


def _admit(needs: Needs, arguments: Mapping[str, Any]) -> None:
    actor = parse_actor(arguments["actor"])
    if user_of(actor) is None:
        return
    with runtime().transaction() as connection:
        if isinstance(needs, Role):
            named = arguments.get("attribution_id")
            account, needed = None if named is None else parse_attribution(named), needs
        else:
            account, needed = needs(connection, actor, arguments)
        access.admit(connection, actor, account, needed=needed)
