"""Names at the border of every task: external ids become UUIDs before it, and its answer shows names beside ids.

So no task can forget it, and everything below knows UUIDs only. Source: docs/adr/0035.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final, ParamSpec

import structlog
from pydantic_core import to_jsonable_python

from usage_tasks.domain.accounts import ExternalId
from usage_tasks.runtime import runtime
from usage_tasks.services.directory.show_names import ASKED, Shown, show_names
from usage_tasks.storage.directory.names import keep_external_ids

Parameters = ParamSpec("Parameters")

_KEPT: Final = frozenset({"attribution_id", "user_id", "billing_creator_user_id"})
"""The arguments that name whom a task is about. A session's name is kept with its report, and an actor need not be."""


def with_names(function: Callable[Parameters, object], *, shown: bool) -> Callable[Parameters, object]:
    """Let a task's function get UUIDs for external ids, and return its answer as JSON has it.

    An answer to an actor shows names beside ids if it is to be `shown` so. The external ids of the task's account and
    user are kept once it has succeeded, unless it was a dry run.
    """
    signature = inspect.signature(function)
    acts = "actor" in signature.parameters

    @wraps(function)
    def named(*args: Parameters.args, **kwargs: Parameters.kwargs) -> object:
        arguments: Mapping[str, Any] = signature.bind(*args, **kwargs).arguments if args else kwargs
        external = {name: value for name, value in arguments.items() if isinstance(value, ExternalId)}
        if external:
            arguments = {**arguments, **_resolve(external)}
        plain: Callable[..., object] = function
        answer = to_jsonable_python(plain(**arguments))
        if acts and isinstance(answer, dict):
            is_dry_run = "dry_run" in answer
            kept = [] if is_dry_run else [value for name, value in external.items() if name in _KEPT]
            asked = {} if is_dry_run else {name: arguments[name] for name in ASKED if arguments.get(name)}
            _keep_and_show(kept, Shown(answer, asked) if shown else Shown({}, {}))
        return answer

    return named


def _resolve(external: Mapping[str, ExternalId]) -> Mapping[str, str]:
    namespace = runtime().name_namespace()
    resolved = {name: value.resolved(namespace) for name, value in external.items()}
    if "attribution_id" in resolved:
        structlog.contextvars.bind_contextvars(attribution_id=resolved["attribution_id"])
    return resolved


def _keep_and_show(kept: Sequence[ExternalId], shown: Shown) -> None:
    if not kept and not shown.subjects:
        return
    rt = runtime()
    with rt.transaction() as connection:
        keep_external_ids(connection, [value.named(rt.name_namespace()) for value in kept])
        show_names(connection, shown)
