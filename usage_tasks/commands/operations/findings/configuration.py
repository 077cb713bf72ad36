"""Checks of this process that ask no other: variables, files, the kind of the Stripe key, connections."""

import os
import stat
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Final, get_origin
from urllib.parse import urlsplit

from sqlalchemy.engine import make_url

from usage_tasks.commands.operations.findings.finding import Examination, Findings, fine, look, wrong
from usage_tasks.settings import Settings, SettingsError, read_stripe_credentials
from usage_tasks.settings.environment import CONFIG_VARIABLE, OTHER_VARIABLES, PREFIX, list_fields, variable_name
from usage_tasks.telemetry.multiprocess import MULTIPROC_VARIABLE
from usage_tasks.telemetry.serving import PORT_VARIABLE

_READABLE_BY_OTHERS: Final = stat.S_IRGRP | stat.S_IROTH
_MOUNTED_SECRETS: Final = ("/run/secrets/", "/var/run/secrets/")
"""Where containers get their secrets: readable by every user of the container, and it has one."""

_ENCRYPTED: Final = frozenset({"require", "verify-ca", "verify-full"})
_INSIDE_A_CLUSTER: Final = (".svc", ".cluster.local", ".localhost")


def look_at_configuration(it: Examination) -> Findings:
    """Look at the settings' surroundings; nobody is asked."""
    yield from _variables(it.environ)
    yield from _files(it.rt.settings, it.environ)
    yield from _key(it.rt.settings, it.environ)
    yield from _connections(it.rt.settings, it.environ)
    yield from _metrics(it.environ)


def list_unknown(environ: Mapping[str, str]) -> list[str]:
    """List the variables with our prefix that this version does not know."""
    fields = {variable_name(path): field for path, field in list_fields()}
    maps = tuple(f"{name}__" for name, field in fields.items() if get_origin(field.annotation) is Mapping)
    known = {*fields, *OTHER_VARIABLES}
    return sorted(
        name for name in environ if name.startswith(PREFIX) and name not in known and not name.startswith(maps)
    )


def _variables(environ: Mapping[str, str]) -> Findings:
    unknown = list_unknown(environ)
    if not unknown:
        yield fine("variables", f"every {PREFIX} variable is a setting")
    known = [variable_name(path) for path, _ in list_fields()] + sorted(OTHER_VARIABLES)
    for name in unknown:
        meant = get_close_matches(name, known, n=1)
        advice = f"Did you mean {meant[0]}? " if meant else ""
        yield look(
            "variables",
            f"{name} is no setting of this version",
            f"{advice}It has no effect. Correct it or take it away; `usage-tasks settings` prints what is in force.",
        )


def _files(settings: Settings, environ: Mapping[str, str]) -> Findings:
    secret = {settings.stripe_credentials_file, settings.directory_key_file}
    for name in (settings.stripe_credentials_file, settings.directory_key_file, environ.get(CONFIG_VARIABLE)):
        if not name or not Path(name).exists():
            continue
        mode = Path(name).stat().st_mode
        # The configuration file holds a secret only where a URL of it has a password.
        holds_secrets = name in secret or _has_password(settings)
        mounted = str(Path(name).absolute()).startswith(_MOUNTED_SECRETS)
        found = f"{name} has mode {stat.filemode(mode)}"
        if mode & _READABLE_BY_OTHERS and holds_secrets and not mounted:
            yield wrong("file", found, f"chmod 600 {name}: it holds secrets that others can read.")
        else:
            yield fine("file", found)


def _has_password(settings: Settings) -> bool:
    return any(urlsplit(url).password for url in (settings.database_url, settings.redis_url))


def _key(settings: Settings, environ: Mapping[str, str]) -> Findings:
    try:
        key = read_stripe_credentials(settings, environ).get_secret_key()
    except SettingsError:
        return  # secrets.py knows whether one is needed here
    kind = next((each for each in ("test", "live") if f"_{each}_" in key[:8]), "unknown")
    stand_in = settings.stripe_api_base is not None
    found = f"the key's mode is {kind}{', calls go to a stand-in' if stand_in else ''}"
    if kind == "unknown":
        yield wrong("stripe", found, "It should begin with sk_test_, sk_live_, rk_test_ or rk_live_.")
    elif kind == "live" and (stand_in or settings.test_clock):
        yield wrong("stripe", found, "A live key beside a stand-in or a test clock: use a test key.")
    else:
        yield fine("stripe", found)


def _connections(settings: Settings, environ: Mapping[str, str]) -> Findings:
    """Look for connections that others on the way can read. A container network's service names have no dot."""
    redis = urlsplit(settings.redis_url)
    yield from _connection(
        "redis",
        [redis.hostname or ""],
        encrypted=redis.scheme == "rediss",
        advice="Use rediss:// in redis or REDIS_URL.",
    )
    database = make_url(settings.sqlalchemy_url)
    query = database.normalized_query
    hosts = [host for given in query.get("host", ()) for host in given.split(",")] or [database.host or ""]
    mode = next(iter(query.get("sslmode", ())), environ.get("PGSSLMODE", ""))
    advice = "Add sslmode=verify-full (and sslrootcert=...) to database.url or DATABASE_URL."
    yield from _connection("database", hosts, encrypted=mode in _ENCRYPTED, advice=advice)


def _connection(peer: str, hosts: list[str], *, encrypted: bool, advice: str) -> Findings:
    far = [host for host in hosts if not _is_near(host)]
    if encrypted or not far:
        yield fine("connections", f"{peer}: {'encrypted' if encrypted else 'within this machine or container network'}")
    else:
        found = f"{peer}: the connection to {', '.join(far)} is not encrypted for certain"
        yield look("connections", found, f"{advice} Passwords and usage go over the network in the clear.")


def _is_near(host: str) -> bool:
    if not host or host.startswith(("/", "@")):
        return True  # a socket of this machine
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return "." not in host or host.rstrip(".").endswith(_INSIDE_A_CLUSTER)


def _metrics(environ: Mapping[str, str]) -> Findings:
    if not environ.get(PORT_VARIABLE):
        return
    directory = environ.get(MULTIPROC_VARIABLE)
    if not directory:
        yield look(
            "metrics",
            f"{PORT_VARIABLE} is set and {MULTIPROC_VARIABLE} is not: a worker with child processes counts no task",
            f"Set {MULTIPROC_VARIABLE} to a directory of each worker's own, or use --pool threads.",
        )
    elif Path(directory).exists() and not os.access(directory, os.W_OK | os.X_OK):
        advice = f"Make {directory} writable for the user of the workers: they do not start."
        yield wrong("metrics", f"{MULTIPROC_VARIABLE} names {directory}, which cannot be written", advice)
    else:
        yield fine("metrics", f"served on port {environ[PORT_VARIABLE]}, kept in {directory}")
