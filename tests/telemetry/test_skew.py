import pytest

from usage_tasks.telemetry.skew import ClockReading, find_wrong, read_clock


def reading(ahead: float, slack: float = 0.01) -> ClockReading:
    return ClockReading(ahead=ahead, slack=slack)


def test_half_of_the_round_trip_is_taken_off() -> None:
    assert read_clock(105.5, asked=100, answered=103) == ClockReading(ahead=4.0, slack=1.5)


def test_a_clock_that_shows_whole_seconds_is_within_half_of_one() -> None:
    assert read_clock(100, asked=100.25, answered=100.75, resolution=1) == ClockReading(ahead=0.0, slack=0.75)
    assert not read_clock(100, asked=102.75, answered=102.75, resolution=1).differs
    assert read_clock(100, asked=103.01, answered=103.01, resolution=1).differs


@pytest.mark.parametrize(
    ("ahead", "wrong"),
    [
        ({}, []),
        ({"database": 0.0, "redis": 0.1, "stripe": -0.2}, []),
        ({"database": -3600.0, "redis": 0.0, "stripe": 0.4}, ["database"]),  # it was set back
        ({"database": 3600.0, "redis": 3600.0, "stripe": 3600.0}, ["host"]),
        ({"database": 3600.0, "redis": 3600.0}, ["host"]),
        ({"database": 0.0, "redis": 5.0, "stripe": 0.0}, ["redis"]),
        ({"database": 5.0}, ["database", "host"]),  # undecidable: either may be wrong
        ({"database": 1.0}, []),
        ({"database": 3600.0, "redis": 3600.0, "stripe": 0.0}, ["database", "host", "redis", "stripe"]),
    ],
)
def test_the_clock_that_stands_apart_is_the_wrong_one(ahead: dict[str, float], wrong: list[str]) -> None:
    assert find_wrong({peer: reading(seconds) for peer, seconds in ahead.items()}) == wrong


def test_a_slow_answer_makes_no_clock_wrong() -> None:
    assert find_wrong({"database": reading(5.0, slack=4.0), "redis": reading(0.0)}) == []
