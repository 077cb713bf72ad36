"""The installation to which a Redis belongs, under a key of its prefix, and the kind of server that it is.

A worker, a beat and `usage-tasks migrate` write the key if it is not there. Nobody but `usage-tasks installation adopt`
writes over it.
"""

import ssl
from typing import Any, Final

import redis
from redis.exceptions import ResponseError

from usage_tasks.coordination.keyspace import key_of
from usage_tasks.domain.errors import MisconfiguredError
from usage_tasks.settings import Settings, without_password
from usage_tasks.wire.installations import InstallationIdentity, describe_foreign, is_same

NAME: Final = "installation"
CLUSTER: Final = (
    "redis: the server is a node of a Redis Cluster, which has no transactions over several queues: "
    "use one Redis or Valkey, with a replica if it must not be lost"
)


class ForeignRedisError(MisconfiguredError):
    """The Redis belongs to another installation, or to this one in another database."""


def find_holder(client: "redis.Redis") -> str | None:
    """Return the text of the installation to which the Redis belongs. Raises RedisError if it is away."""
    try:
        held: Any = client.get(key_of(client, NAME))
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        return "something that is no id"
    return None if held is None else held.decode(errors="replace")


def claim(client: "redis.Redis", ours: InstallationIdentity, settings: Settings) -> bool:
    """Make sure that the Redis is ours; return True if its id was missing and is there now.

    Raises ForeignRedisError, with a line for the operator, and RedisError.
    """
    held = find_holder(client)
    missing = held is None
    if held is None:
        client.set(key_of(client, NAME), str(ours), nx=True)
        held = find_holder(client) or str(ours)
    if not is_same(ours, held):
        place = f"{without_password(settings.redis_url)} (redis.prefix {settings.redis.prefix})"
        line = describe_foreign(ours, held, redis=place, database=without_password(settings.database_url))
        raise ForeignRedisError(line)
    return missing


def adopt(client: "redis.Redis", ours: InstallationIdentity) -> str | None:
    """Write the id of this installation over another one; return the one of before."""
    before = find_holder(client)
    client.set(key_of(client, NAME), str(ours))
    return before


def check_configured(settings: Settings, ours: InstallationIdentity) -> None:
    """Raise MisconfiguredError if the settings name another installation than the database has."""
    if settings.installation not in {None, ours.installation_id}:
        allowed = f"the id in the database {without_password(settings.database_url)}, {ours.installation_id}"
        raise MisconfiguredError(f"`installation`: must be {allowed} (got {settings.installation})")


def check_server(client: "redis.Redis") -> None:
    """Raise MisconfiguredError if the server is a node of a Redis Cluster. Raises RedisError if it is away."""
    try:
        shown: Any = client.info("cluster")
    except ResponseError:
        return  # a narrow user, or no such command: a cluster answers MOVED to its first command
    if int(shown.get("cluster_enabled", 0)):
        raise MisconfiguredError(CLUSTER)


def refuse_certificate(error: BaseException, settings: Settings) -> None:
    """Raise MisconfiguredError if Redis failed because one side does not accept the other's certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and "certificate" in str(cause).lower():
            place = without_password(settings.redis_url)
            raise MisconfiguredError(f"redis: no TLS with {place}: {cause}; ssl_ca_certs names the CA") from error
        cause = cause.__cause__ or cause.__context__
