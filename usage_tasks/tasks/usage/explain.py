"""`usage.explain`: how the cost of an entry or a session comes about. A ledger task: no network."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection

from usage_tasks.domain.access import Role, needed_to_read_session
from usage_tasks.domain.accounts import Account, Actor, parse_actor, parse_attribution, parse_uuid
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import runtime
from usage_tasks.services.pricing import explain
from usage_tasks.services.pricing.explain import Explained
from usage_tasks.tasks.task import task
from usage_tasks.wire.values import ActorText, Attribution, Moment, Name, SessionId


def _judge(connection: Connection, actor: Actor, arguments: Mapping[str, Any]) -> tuple[Account | None, Role]:
    """Return the account and the role needed: a member may have their own sessions explained."""
    account, user_id = explain.find_subject(
        connection, arguments.get("attribution_id"), arguments.get("entry_key"), arguments.get("instance_id")
    )
    return account, Role.OWNER if account is None else needed_to_read_session(actor, user_id)


@task(name="usage.explain", time_limit=timedelta(seconds=30), needs=_judge)
def explain_usage(
    actor: ActorText,
    attribution_id: Attribution | None = None,
    entry_key: Name | None = None,
    instance_id: SessionId | None = None,
    at: Moment | None = None,
) -> Explained:
    """Explain either an account's entry, by `attribution_id` and `entry_key`, or a session, by `instance_id`."""
    rt = runtime()
    now = rt.instant(at, parse_actor(actor))
    with rt.transaction() as connection:
        if instance_id is not None and entry_key is None and attribution_id is None:
            return explain.explain_instance(connection, parse_uuid(instance_id), at=now)
        if entry_key is not None and attribution_id is not None and instance_id is None:
            account = parse_attribution(attribution_id).attribution_id
            return explain.explain_entry(connection, account, entry_key, at=now)
    allowed = "given with attribution_id and without instance_id, or left out with instance_id"
    raise InvalidInputError("entry_key", entry_key, allowed)
