"""What `usage-tasks doctor` finds of the installation's id, and of the Redis that it is written to."""

from collections.abc import Iterator
from typing import Final

from redis.exceptions import RedisError

from usage_tasks.coordination.installation import check_configured, check_server, find_holder
from usage_tasks.domain.errors import MisconfiguredError, RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.settings import without_password
from usage_tasks.settings.redis_url import UNVERIFIED, read_tls
from usage_tasks.storage.operations.installation import read_installation
from usage_tasks.storage.schema_version import read_schema_version
from usage_tasks.wire.installations import InstallationIdentity, describe_foreign, is_same

Finding = tuple[str, str, str, str]
"""The check, its verdict (fine, look or wrong), what was found, and what to do about it."""

_CHECK: Final = "installation"


def look_at_installation(rt: Runtime) -> Iterator[Finding]:
    """Compare the id in the database with the one in Redis; say where Redis's certificate is not verified.

    Where the database or Redis is away, or there is no schema yet, another finding says so.
    """
    tls = read_tls(rt.settings.redis_url)
    if tls is not None and tls["ssl_cert_reqs"] == UNVERIFIED:
        advice = "Anybody in between reads and writes: take ssl_cert_reqs=none out, name the CA by ssl_ca_certs."
        yield "broker", "look", "TLS to redis without a check of its certificate", advice
    try:
        with rt.transaction() as connection:
            if not read_schema_version(connection).fits:
                return
            ours = read_installation(connection)
        yield from _compare(rt, ours)
    except (RetryableError, RedisError):
        return


def _compare(rt: Runtime, ours: InstallationIdentity) -> Iterator[Finding]:
    try:
        check_configured(rt.settings, ours)
        check_server(rt.redis)
    except MisconfiguredError as error:
        yield _CHECK, "wrong", str(error), "Correct what is named: workers and beat do not start."
        return
    held = find_holder(rt.redis)
    if held is None:
        yield _CHECK, "look", f"{ours} is not in redis yet", "The first worker writes it; or run usage-tasks migrate."
    elif is_same(ours, held):
        yield _CHECK, "fine", f"{ours}, in the database and in redis", ""
    else:
        redis = f"{without_password(rt.settings.redis_url)} (redis.prefix {rt.settings.redis.prefix})"
        line = describe_foreign(ours, held, redis=redis, database=without_password(rt.settings.database_url))
        yield _CHECK, "wrong", line, "Its workers are another database's; see usage-tasks installation show."
