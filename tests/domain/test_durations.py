"""Durations mean the same as for Go's time.ParseDuration."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from usage_tasks.domain.durations import parse_duration

GO_DURATION_MAX = timedelta(microseconds=(2**63 - 1) // 1_000)


# From Go's own time_test.go, and from the configuration files of the original.
@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("5s", 5),
        ("30s", 30),
        ("1478s", 1478),
        ("-5s", -5),
        ("+5s", 5),
        ("-0", 0),
        ("+0", 0),
        ("5.0s", 5),
        ("5.6s", 5.6),
        ("5.s", 5),
        (".5s", 0.5),
        ("1.004s", 1.004),
        ("100.00100s", 100.001),
        ("12us", 0.000012),
        ("12µs", 0.000012),
        ("12μs", 0.000012),
        ("14s", 14),
        ("9999ms", 9.999),
        ("9999us", 0.009999),
        ("9999µs", 0.009999),
        ("9999μs", 0.009999),
        ("100ms", 0.1),
        ("90s", 90),
        ("1h30m", 5400),
        ("1.5h", 5400),
        ("24h", 86400),
        ("3h30m", 12600),
        ("10.5s4m", 250.5),
        ("-2m3.4s", -123.4),
        ("1h2m3s4ms5us", 3723.004005),
        ("0.3333333333333333333h", 1200),
        ("0.100000000000000000000h", 360),
        ("0.830103483285477580700h", 2988.372539),
        ("1999ns", 0.000001),
    ],
)
def test_a_duration_means_what_it_means_to_go(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["9223372036854775807ns", "-9223372036854775808ns", "2562047h47m16.854775807s"])
def test_the_longest_durations_of_go_are_read(text: str) -> None:
    assert abs(parse_duration(text)) == GO_DURATION_MAX


@pytest.mark.parametrize(
    "text",
    [
        "", "3", "-", "s", ".", "-.", ".s", "+.s", "1d", "5 s", " 5s", "5s ", "1m30", "1..5s", "--5s", "٣s", "1e3s",
        "9223372036854775808ns", "-9223372036854775809ns", "3000000h", "1S", "\x85\x85", "hello \xffff world",
        "9" * 500 + "s",
    ],
)  # fmt: skip
def test_what_go_refuses_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|unit"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is no duration"),
        ("-", "'-' is no duration"),
        ("1h.s", "'1h.s' is no duration"),
        ("1h30", "'1h30' lacks a unit: ns, us, ms, s, m or h"),
        ("-1h2d", "'-1h2d' has the unknown unit 'd': ns, us, ms, s, m and h are known"),
        ("2562048h", "'2562048h' is longer than the longest duration, about 292 years"),
        ("9" * 200 + "s", "a duration has at most 200 characters, this one has 201"),
    ],
)
def test_a_refusal_names_the_text_and_what_is_wrong_with_it(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r"duration|unit") as refused:
        parse_duration(text)
    assert str(refused.value) == told


def test_the_longest_text_is_read() -> None:
    assert parse_duration("0" * 198 + "7s") == timedelta(seconds=7)


_MILLISECOND = 1_000
_SECOND = 1_000_000


def format_duration(duration: timedelta) -> str:
    """Oracle: write a duration as Go's Duration.String does: `1h30m0s`, `1.5s`, `100ms`, `0s`."""
    microseconds = duration // timedelta(microseconds=1)
    if microseconds == 0:
        return "0s"
    sign, magnitude = ("-" if microseconds < 0 else ""), abs(microseconds)
    if magnitude < _MILLISECOND:
        return f"{sign}{magnitude}\N{MICRO SIGN}s"
    if magnitude < _SECOND:
        return f"{sign}{_with_fraction(magnitude, _MILLISECOND, digits=3)}ms"
    minutes_all, rest = divmod(magnitude, 60 * _SECOND)
    hours, minutes = divmod(minutes_all, 60)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{text}{_with_fraction(rest, _SECOND, digits=6)}s"


def _with_fraction(value: int, unit: int, *, digits: int) -> str:
    whole, rest = divmod(value, unit)
    return f"{whole}.{rest:0{digits}d}".rstrip("0") if rest else str(whole)


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(0), "0s"),
        (timedelta(microseconds=1), "1\N{MICRO SIGN}s"),
        (timedelta(microseconds=-999), "-999\N{MICRO SIGN}s"),
        (timedelta(milliseconds=1), "1ms"),
        (timedelta(microseconds=1100), "1.1ms"),
        (timedelta(milliseconds=999), "999ms"),
        (timedelta(seconds=1), "1s"),
        (timedelta(milliseconds=100), "100ms"),
        (timedelta(seconds=3.5), "3.5s"),
        (timedelta(minutes=1), "1m0s"),
        (timedelta(hours=1, minutes=30), "1h30m0s"),
        (timedelta(days=1), "24h0m0s"),
        (timedelta(minutes=-2, seconds=-3.4), "-2m3.4s"),
    ],
)
def test_a_duration_is_written_as_go_writes_it(duration: timedelta, text: str) -> None:
    assert format_duration(duration) == text
    assert parse_duration(text) == duration


@given(st.timedeltas(min_value=-GO_DURATION_MAX, max_value=GO_DURATION_MAX))
def test_a_duration_that_was_written_reads_as_itself(duration: timedelta) -> None:
    assert parse_duration(format_duration(duration)) == duration


@given(st.text(alphabet="0123456789.+-nuµmsh ", max_size=20))
def test_any_text_is_read_or_refused_as_a_value(text: str) -> None:
    try:
        parse_duration(text)
    except ValueError:
        return
