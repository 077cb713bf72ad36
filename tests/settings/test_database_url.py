"""The URL of the database: one form that libpq and SQLAlchemy read alike, and the refused forms, by name."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.engine import make_url

from tests.settings.conftest import Problems
from usage_tasks.settings.database_url import OPTIONS, parse_database_url


def as_sqlalchemy(url: str) -> Mapping[str, str]:
    made = make_url(url.replace("postgresql://", "postgresql+psycopg://", 1))
    arguments = made.get_dialect()().create_connect_args(made)[1]
    # Where libpq's list of ports has default ones only, SQLAlchemy writes its commas.
    return {name: str(value) for name, value in arguments.items() if name != "port" or str(value).strip(",")}


def as_libpq(url: str) -> Mapping[str, Any]:
    return conninfo_to_dict(url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@h1:5432,h2:5433/usage", {"host": "h1,h2", "port": "5432,5433"}),
        ("postgresql://u:p@h1,h2:5433/usage", {"host": "h1,h2", "port": ",5433"}),
        ("postgresql://u:p@h1,h2/usage", {"host": "h1,h2"}),
        ("postgresql://u:p@[::1]:1,[fe80::1%25eth0]:2/usage", {"host": "::1,fe80::1%eth0", "port": "1,2"}),
        ("postgresql://u:p@/usage?host=h1:1&host=h2:2", {"host": "h1,h2", "port": "1,2"}),
        ("postgresql://u:p@/usage?host=h1,h2&port=1,2", {"host": "h1,h2", "port": "1,2"}),
        ("postgresql://u:p@/usage?host=h1,h2&port=7", {"host": "h1,h2", "port": "7,7"}),
        ("postgresql://u:p@/usage?host=h1:1", {"host": "h1", "port": "1"}),
        ("postgresql://u:p@/usage?host=/run/postgresql", {"host": "/run/postgresql"}),
        ("postgresql://u:p@%2Frun%2Fpostgresql/usage", {"host": "/run/postgresql"}),
        ("postgresql://u:p@localhost:5433/usage?host=/run", {"host": "/run", "port": "5433"}),
        ("postgresql://u:p@h:1/usage?port=2", {"host": "h", "port": "2"}),
        ("postgresql://u:p@h/usage", {"host": "h"}),
        ("postgresql://u:p@[::1]:5433/usage", {"host": "::1", "port": "5433"}),
        ("postgresql://u:p@h/usage?sslrootcert=/etc/a+b.pem", {"host": "h", "sslrootcert": "/etc/a+b.pem"}),
        ("postgresql://u:p@h/usage?ssl=true", {"host": "h", "sslmode": "require"}),
        ("postgres://u:p@h/usage?options=-csearch_path%3Dbilling", {"host": "h", "options": "-csearch_path=billing"}),
        (
            "postgresql://u:p@h/usage?options=-c search_path=a -c geqo=off",
            {"host": "h", "options": "-c search_path=a -c geqo=off"},
        ),
        (
            "postgresql+psycopg://u:p@h1:1,h2:2/usage?target_session_attrs=read-write",
            {"host": "h1,h2", "port": "1,2", "target_session_attrs": "read-write"},
        ),
    ],
)
def test_libpq_and_sqlalchemy_read_the_same(url: str, expected: Mapping[str, str]) -> None:
    parsed = parse_database_url(url)
    assert as_libpq(parsed) == {"user": "u", "password": "p", "dbname": "usage", **expected}
    assert as_sqlalchemy(parsed) == as_libpq(parsed)
    assert parse_database_url(parsed) == parsed


names = st.text("abcxyz0189-.", min_size=1, max_size=8)
places = st.lists(st.tuples(names, st.integers(1, 65_535) | st.none()), min_size=1, max_size=3)


@given(
    places=places,
    password=st.text(min_size=1, max_size=8).filter(lambda each: "\0" not in each),
    path=st.text("a/+ &=%:,", max_size=8),
)
def test_whatever_its_parts_are_libpq_and_sqlalchemy_read_the_same(
    places: list[tuple[str, int | None]], password: str, path: str
) -> None:
    hosts = ",".join(host if port is None else f"{host}:{port}" for host, port in places)
    try:
        secret = quote(password, safe="")
    except UnicodeEncodeError:
        return
    parsed = parse_database_url(f"postgresql://u:{secret}@{hosts}/usage?sslkey=x{quote(path, safe='')}")
    read = as_libpq(parsed)
    assert (read["password"], read["sslkey"]) == (password, f"x{path}")
    assert read["host"] == ",".join(host for host, _ in places)
    assert as_sqlalchemy(parsed) == read


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("no_such_option=1", ": unknown option 'no_such_option')"),
        ("sslmode", "unknown option 'sslmode'"),
        ("replication=database", "unknown option 'replication'"),
        ("sslmode=require&sslmode=disable", "option 'sslmode' twice"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(problems: Problems, query: str, words: str) -> None:
    message = problems(environ={"DATABASE_URL": f"postgresql://u:hush@h/usage?{query}"})
    assert words in message
    assert "hush" not in message


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h1:hush/usage",
        "postgresql://u@h1:hush,h2/usage",
        "postgresql://u@h1:0/usage",
        "postgresql://u@h1:1,h2:65536/usage",
        "postgresql://u@/usage?host=a,b&port=1,2,3",
        "postgresql://u@a:1,b:2/usage?port=3",
        "postgresql://u@a/usage?port=0",
        "postgresql://u:hu?sh=hush@h/usage",
        "postgresql://u:hu/sh@h/usage",
        "postgresql://u:hu#sh@h/usage",
        "postgresql://u:hu@sh@h/usage",
        "postgresql://u@a/usage#fragment",
        "postgresql:///usage?password=hush&nothing=1",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_a_connection_and_shows_no_secret(
    problems: Problems, url: str
) -> None:
    message = problems(database={"url": url})
    assert "`database.url`: must be a URL" in message
    assert "hush" not in message


def test_every_option_is_one_of_libpq() -> None:
    known = {each.keyword.decode() for each in pq.Conninfo.get_defaults()}
    assert known - OPTIONS == {"replication"}, "an option of a newer libpq: known to the settings too?"
    assert {each for each in OPTIONS - known if pq.version() >= 180000} == set()


def test_the_driver_takes_each_form() -> None:
    with pytest.raises(psycopg.OperationalError, match="Multiple connection attempts failed"):
        psycopg.connect(parse_database_url("postgresql://u@127.0.0.1:1,127.0.0.1:2/usage"))
