"""The URL of the database: libpq's syntax, brought into the one form that libpq and SQLAlchemy read alike.

Written without libpq: the receiver reads the settings too, and loads no database driver.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, unquote

from usage_tasks.settings.errors import UnknownOptionError

PORT_MAX: Final = 65_535
_OPTIONS: Final = """
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_client_secret oauth_issuer
    oauth_scope options passfile password port require_auth requirepeer scram_client_key scram_server_key service
    ssl_max_protocol_version ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey
    sslkeylogfile sslmode sslnegotiation sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout user
"""
OPTIONS: Final = frozenset(_OPTIONS.split())
"""libpq's, without `replication`: such a connection takes no statements of ours."""

_URL: Final = re.compile(
    r"^(?:postgresql|postgres|postgresql\+psycopg)://(?:(?P<user>[^@/?#]*)@)?(?P<hosts>[^@/?#]*)"
    r"(?P<path>/[^@?#]*)?(?:\?(?P<query>[^@#]*))?$"
)
_HOST: Final = re.compile(r"^(?P<host>\[[0-9A-Za-z:.%]+\]|[^\[\]:,]*)(?::(?P<port>[0-9]*))?$")
_BARE_IPV6: Final = re.compile(r"^[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(%\w+)?$")
_MALFORMED: Final = "not a PostgreSQL URL"


def parse_database_url(value: str) -> str:
    """Return the URL with several hosts as `?host=h1,h2&port=1,2`, and its options escaped.

    Takes libpq's `h1:1,h2:2` and SQLAlchemy's `?host=h1:1&host=h2:2` too. Raises UnknownOptionError with the name of an
    option that libpq does not know or that stands twice; ValueError, without a part of the URL, for anything else.
    """
    found = _URL.match(value)
    if found is None:
        raise ValueError(_MALFORMED)
    hosts, options = _parse_options(found["query"] or "")
    authority = found["hosts"]
    if hosts or not set(authority).isdisjoint(",%"):
        options = _place(authority, hosts, options)
        authority = ""
    elif (alone := _HOST.match(authority)) is None:
        raise ValueError(_MALFORMED)
    else:
        _check_ports(options.get("port") or alone["port"] or "")
    query = "&".join(f"{name}={quote(text, safe=',/:')}" for name, text in options.items())
    user = "" if found["user"] is None else f"{found['user']}@"
    return f"postgresql://{user}{authority}{found['path'] or ''}{f'?{query}' if query else ''}"


def _parse_options(query: str) -> tuple[list[str], dict[str, str]]:
    """Return the hosts and the other options of a query, decoded as libpq does: a + is a plus.

    Another driver's `ssl=true` is `sslmode=require`.
    """
    hosts: list[str] = []
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, given, text = (unquote(each) for each in part.partition("="))
        if (name, text) == ("ssl", "true"):
            name, text = "sslmode", "require"
        if not given or name not in OPTIONS:
            raise UnknownOptionError(f"unknown option {name!r}")
        if name in options:
            raise UnknownOptionError(f"option {name!r} twice")
        if name == "host":
            hosts += text.split(",")
        else:
            options[name] = text
    return hosts, options


def _place(authority: str, hosts: Sequence[str], options: Mapping[str, str]) -> dict[str, str]:
    """Return the options with hosts and ports among them. As for libpq, hosts of the query replace the authority's."""
    placed = [unquote(each) for each in authority.split(",")]
    names, ports = _split_hosts(hosts or placed)
    common = options.get("port", "")
    if hosts and not common and not any(ports) and len(placed) == 1:
        common = _split_hosts(placed)[1][0]
    others = {name: text for name, text in options.items() if name != "port"}
    return {"host": ",".join(names)} | _with_ports(names, ports, common) | others


def _split_hosts(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the hosts, and the port of each, "" for the default one."""
    pairs = []
    for each in texts:
        found = _HOST.match(each)
        if found is None and not _BARE_IPV6.match(each):
            raise ValueError(_MALFORMED)
        pairs.append((found["host"].strip("[]"), found["port"] or "") if found else (each, ""))
    return [host for host, _ in pairs], [port for _, port in pairs]


def _with_ports(hosts: Sequence[str], own: Sequence[str], common: str) -> dict[str, str]:
    """Return the option `port` with as many ports as hosts: SQLAlchemy takes no single one for all."""
    ports = common.split(",")
    if not any(own):
        own = ports * len(hosts) if len(ports) == 1 else ports
    elif common:
        raise ValueError("ports in two places")
    if len(own) != len(hosts):
        raise ValueError("as many ports as hosts")
    _check_ports(",".join(own))
    return {"port": ",".join(own)} if any(own) else {}


def _check_ports(ports: str) -> None:
    for port in filter(None, ports.split(",")):
        if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) <= PORT_MAX:
            raise ValueError("not a port")
