"""The broker itself: its clock, whether it keeps what it is given, and its limits.

Read from INFO: services that run Redis for others refuse CONFIG.
"""

from collections.abc import Mapping
from typing import Any, Final

from redis.exceptions import NoPermissionError, ResponseError

from usage_tasks.commands.operations.findings.finding import Examination, Findings, describe_error, fine, wrong
from usage_tasks.coordination.broker_clock import read_redis_clock

_USED_PERCENT_MAX: Final = 90


def ask_broker(it: Examination) -> Findings:
    """Read its clock, which shows that it answers."""
    reading = it.clocks.ask("redis", lambda: read_redis_clock(it.rt.redis))
    yield fine("broker", f"answers within {2 * reading.slack:.3f} s")


def look_at_broker(it: Examination) -> Findings:
    """Look at how the broker is set up, and at its limits."""
    try:
        info: Any = it.rt.redis.info()
    except (NoPermissionError, ResponseError) as error:
        yield fine("broker", f"does not show how it is set up: {describe_error(error)}")
        return
    yield from _policy(info)
    yield from _durability(it, info)
    yield from _limits(info)


def _policy(info: Mapping[str, Any]) -> Findings:
    policy = info.get("maxmemory_policy")
    found = f"maxmemory-policy is {policy or 'not shown'}"
    if policy in {None, "noeviction"}:
        yield fine("broker", found)
    else:
        advice = "Set maxmemory-policy noeviction in its configuration: else messages vanish when memory is short."
        yield wrong("broker", found, advice)
    if info.get("role") == "slave":
        found = "it is a replica, and takes no writes"
        yield wrong("broker", found, "Name the primary in redis or REDIS_URL, or make this one it: REPLICAOF NO ONE.")


def _durability(it: Examination, info: Mapping[str, Any]) -> Findings:
    found = f"appendonly is {'yes' if info.get('aof_enabled') else 'no'}"
    if info.get("aof_enabled", 1):
        yield fine("broker", found)
    elif _is_managed(it):
        yield fine("broker", f"{found}: the service that runs it sees to durability")
    else:
        advice = "Set appendonly yes in its configuration: else a restart loses every message."
        yield wrong("broker", found, advice)
    for key in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if info.get(key, "ok") != "ok":
            advice = "Is its disk full? Redis refuses writes then; its log has the reason."
            yield wrong("broker", f"{key} is {info[key]}", advice)


def _is_managed(it: Examination) -> bool:
    try:
        it.rt.redis.config_get("appendonly")
    except (NoPermissionError, ResponseError):
        return True
    return False


def _limits(info: Mapping[str, Any]) -> Findings:
    for what, used, allowed, advice in (
        (
            "bytes of memory",
            "used_memory",
            "maxmemory",
            "Raise maxmemory, or find what fills it; `usage-tasks poison list`",
        ),
        ("connections", "connected_clients", "maxclients", "Raise maxclients, or start fewer processes"),
    ):
        limit = int(info.get(allowed, 0) or 0)
        held = int(info.get(used, 0) or 0)
        found = f"{held} of {limit} {what} are used"
        if limit and 100 * held >= _USED_PERCENT_MAX * limit:
            yield wrong("broker", found, f"{advice}: above {allowed} Redis refuses.")
        elif limit:
            yield fine("broker", found)
