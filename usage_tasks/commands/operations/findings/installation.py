"""The installation's id, and the Redis that it is written to."""

from typing import Final

from usage_tasks.commands.operations.findings.finding import Examination, Findings, fine, look, wrong
from usage_tasks.coordination.installation import check_configured, check_server, find_holder
from usage_tasks.domain.errors import MisconfiguredError, RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.settings import without_password
from usage_tasks.settings.redis_url import UNVERIFIED, read_tls
from usage_tasks.storage.operations.installation import read_installation
from usage_tasks.storage.schema_version import read_schema_version
from usage_tasks.wire.installations import InstallationIdentity, describe_foreign, is_same

_CHECK: Final = "installation"


def look_at_installation(it: Examination) -> Findings:
    """Compare the id in the database with the one in Redis; show a certificate of Redis that is not verified.

    If the database is away, or has no schema yet, another finding reports it. Raises RedisError.
    """
    tls = read_tls(it.rt.settings.redis_url)
    if tls is not None and tls["ssl_cert_reqs"] == UNVERIFIED:
        advice = "Anybody in between reads and writes: take ssl_cert_reqs=none out, and name the CA by ssl_ca_certs."
        yield look("broker", "TLS to redis without a check of its certificate", advice)
    try:
        with it.rt.transaction() as connection:
            fits = read_schema_version(connection).fits
    except RetryableError:
        return
    if not fits:
        return
    try:
        with it.rt.transaction() as connection:
            ours = read_installation(connection)
    except RetryableError as error:
        advice = "Workers and beat wait for it: grant the user of database.url what it may do with the other tables."
        yield wrong(_CHECK, f"its id cannot be read: {error}", advice)
    else:
        yield from _compare(it.rt, ours)


def _compare(rt: Runtime, ours: InstallationIdentity) -> Findings:
    try:
        check_configured(rt.settings, ours)
        check_server(rt.redis)
    except MisconfiguredError as error:
        yield wrong(_CHECK, str(error), "Correct what is named: workers and beat do not start.")
        return
    held = find_holder(rt.redis)
    if held is None:
        yield fine(_CHECK, f"{ours} is not in redis yet: the first worker writes it")
    elif is_same(ours, held):
        yield fine(_CHECK, f"{ours}, in the database and in redis")
    else:
        redis = f"{without_password(rt.settings.redis_url)} (redis.prefix {rt.settings.redis.prefix})"
        line = describe_foreign(ours, held, redis=redis, database=without_password(rt.settings.database_url))
        advice = (
            "Its workers are another database's: set another redis.prefix or Redis. If this database was restored or "
            "moved, run `usage-tasks installation adopt`; in a copy run `usage-tasks installation new` after that "
            "setting. See `usage-tasks installation show`."
        )
        yield wrong(_CHECK, line, advice)
