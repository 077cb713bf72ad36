"""The URL and the prefix of Redis: one form for all clients."""

import pytest

from usage_tasks.settings.errors import UnknownOptionError
from usage_tasks.settings.redis_url import parse_prefix, parse_redis_url, read_tls


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("redis://u:p@h:6379/0", "redis://u:p@h:6379/0"),
        ("rediss://h", "rediss://h?ssl_cert_reqs=required"),
        ("REDISS://u:p%3F@h:6380/2", "rediss://u:p%3F@h:6380/2?ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", "rediss://h?ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=optional", "rediss://h?ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_cert_reqs=none"),
        ("rediss://h?ssl_ca_certs=/a b.pem", "rediss://h?ssl_cert_reqs=required&ssl_ca_certs=/a%20b.pem"),
        ("rediss://h?ssl_ca_certs=%2Fa.pem", "rediss://h?ssl_cert_reqs=required&ssl_ca_certs=/a.pem"),
    ],
)
def test_every_spelling_becomes_one_and_stays_so(given: str, normal: str) -> None:
    assert parse_redis_url(given) == normal
    assert parse_redis_url(normal) == normal


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("rediss://:hush@h?ssl_cert_reqs=some", "ssl_cert_reqs"),
        ("rediss://:hush@h?ssl_check_hostname=false", "ssl_check_hostname"),
        ("rediss://:hush@h?ssl_ca_certs=", "ssl_ca_certs"),
        ("rediss://:hush@h?ssl_cert_reqs=none&ssl_cert_reqs=required", "twice"),
        ("redis://:hush@h?ssl_ca_certs=/a.pem", "rediss://"),
    ],
)
def test_an_option_that_not_all_clients_read_alike_is_refused_by_its_name(given: str, named: str) -> None:
    with pytest.raises(UnknownOptionError, match=named) as raised:
        parse_redis_url(given)
    assert "hush" not in str(raised.value)


def test_the_options_of_tls_are_those_of_the_url() -> None:
    url = parse_redis_url("rediss://h/1?ssl_certfile=/c.pem&ssl_keyfile=/k.pem&db=3")
    assert read_tls(url) == {"ssl_cert_reqs": "required", "ssl_certfile": "/c.pem", "ssl_keyfile": "/k.pem"}
    assert read_tls("redis://h/1") is None


@pytest.mark.parametrize("prefix", ["usage:", "staging-2.eu:", "a:b:", "x" * 63 + ":"])
def test_a_prefix_is_taken(prefix: str) -> None:
    assert parse_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["", ":", "usage", "us*ge:", "a b:", "{a}:", "ü:", "usage:\n", "x" * 64 + ":"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="not a prefix"):
        parse_prefix(prefix)
