"""The oracle answers worked examples, each computed by hand."""

from datetime import datetime, timedelta
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest

from tests.factories import DAY, HOUR, START, make_id
from tests.sessions.timelines.oracle import RUNNING, Claim, Session, Share, Value, Version, add_up
from tests.sessions.timelines.stories import report, segment

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
PRICES = {
    "small": [Version(START - 99 * DAY, Decimal("0.5"))],
    "large": [Version(START - 99 * DAY, Decimal(1))],
    "large:suspended": [Version(START - 99 * DAY, Decimal(0))],
    "large:stopped_kept": [Version(START - 99 * DAY, Decimal("0.1"))],
}
SMALL, LARGE, SUSPENDED = Value("small", RUNNING), Value("large", RUNNING), Value("large", "suspended")


def after(**length: float) -> datetime:
    return START + timedelta(**length)


def session(*reports: dict[str, Any], **prices: list[Version]) -> Session:
    return Session(reports, PRICES | prices)


def stopped(until: datetime, *segments: dict[str, str], **fields: Any) -> dict[str, Any]:
    return report(stopped_at=until, segments=list(segments), **({"observed_at": until} | fields))


def final_cents(*reports: dict[str, Any], **prices: list[Version]) -> int:
    return session(*reports, **prices).cents(START + 99 * DAY)


def test_nine_hours_at_a_half_and_one_at_one_are_330_credits_whatever_the_order() -> None:
    reports = [
        report(observed_at=START),
        report(observed_at=after(hours=9), segments=[segment(after(hours=9), "large")]),
        stopped(after(hours=10)),
    ]
    assert {final_cents(*order) for order in permutations(reports)} == {9 * 60 * 50 + 60 * 100}
    assert final_cents(*reports) == 33_000


def test_five_seconds_suspended_for_nothing_cost_nothing() -> None:
    told = stopped(
        after(seconds=37),
        segment(after(seconds=20), "large", "suspended"),
        segment(after(seconds=25), "large"),
        workspace_class="large",
    )
    found = session(told)
    assert (found.seconds(START + DAY), found.cents(START + DAY)) == (37, 53)  # 32 s at 100 cents a minute: 53.33
    assert found.cents(after(seconds=25)) == found.cents(after(seconds=20)) == 33


def test_a_suspended_state_with_a_price_costs_it() -> None:
    kept = segment(after(hours=1), "large", "stopped_kept")
    assert final_cents(stopped(after(hours=3), kept, workspace_class="large")) == 6000 + 2 * 600


def test_a_resize_at_the_instant_of_a_price_change() -> None:
    large = [*PRICES["large"], Version(after(hours=1), Decimal(3))]
    small = [*PRICES["small"], Version(after(hours=1), Decimal(7))]
    told = stopped(after(hours=2), segment(after(hours=1), "large"))
    assert final_cents(told, large=large, small=small) == 60 * 50 + 60 * 300


def test_a_segment_before_the_start_holds_at_the_start() -> None:
    early = report(started_at=after(hours=-2), observed_at=START, segments=[segment(after(hours=-1), "large")])
    assert final_cents(early, stopped(after(hours=1), started_at=START)) == 6000
    found = session(early, stopped(after(hours=1), started_at=after(hours=-2)))
    assert found.cents(START + DAY) == 3000 + 2 * 6000
    assert found.value_at(after(hours=-1)) == LARGE
    assert found.value_at(after(hours=-1.5)) == SMALL


def test_a_segment_after_the_stop_costs_nothing() -> None:
    assert final_cents(stopped(after(hours=1), segment(after(hours=2), "large"))) == 3000
    assert final_cents(stopped(after(hours=1), segment(after(hours=1), "large"))) == 3000


def test_segments_of_no_length_cost_nothing() -> None:
    same = [segment(after(hours=1), "large"), segment(after(hours=1), "large", "suspended")]
    assert final_cents(stopped(after(hours=2), *same)) == 3000  # "suspended" is the greater text: it costs nothing
    whole = stopped(START, segment(START, "large"))
    assert (session(whole).seconds(START + DAY), final_cents(whole)) == (0, 0)


def test_a_segment_of_less_than_half_a_second_has_no_second() -> None:
    blip = [segment(after(seconds=10), "large"), segment(after(seconds=10.4), "small")]
    assert final_cents(stopped(after(seconds=20), *blip)) == final_cents(stopped(after(seconds=20)))
    longer = [segment(after(seconds=10), "large"), segment(after(seconds=10.5), "small")]
    assert final_cents(stopped(after(seconds=20), *longer)) == 18  # 19 s at 0.5 and one at 1: 17.5
    assert final_cents(stopped(after(seconds=20))) == 17  # 16.67


@pytest.mark.parametrize(("microseconds", "cents"), [(499_999, 60), (500_000, 61), (500_001, 61)])
def test_an_edge_is_rounded_as_an_elapsed_time_to_the_microsecond(microseconds: int, cents: int) -> None:
    # At 0.6 a minute a second is a cent; large costs 0 here, so only the seconds before the edge count.
    small = [Version(START - 99 * DAY, Decimal("0.6"))]
    resized = segment(after(seconds=60, microseconds=microseconds), "large", "suspended")
    assert final_cents(stopped(after(minutes=5), resized), small=small) == cents
    whole = stopped(after(seconds=60, microseconds=microseconds))
    assert final_cents(whole, small=small) == cents


def test_minimum_and_step_are_those_of_the_class_and_state_at_the_start() -> None:
    small = [Version(START - 99 * DAY, Decimal("0.5"), minimum_cents=80, step_seconds=60)]
    large = [Version(START - 99 * DAY, Decimal(1), minimum_cents=999, step_seconds=3600)]
    lengths = [0, 1, 45, 61, 121]
    costs = [
        final_cents(stopped(after(seconds=length), segment(after(seconds=30), "large")), small=small, large=large)
        for length in lengths
    ]
    # The first minute is charged at 0.5, for it begins in small; each later one at 1.
    assert costs == [0, 80, 80, 150, 250]
    from_the_start = stopped(after(seconds=61), segment(START, "large"), segment(after(seconds=30), "small"))
    assert final_cents(from_the_start, small=small, large=large) == 6000


def test_of_equal_observations_the_segment_that_began_last_holds() -> None:
    told = stopped(after(hours=3), segment(after(hours=1), "large"), segment(after(hours=2), "small"))
    parts = [
        stopped(after(hours=3), segment(after(hours=1), "large")),
        stopped(after(hours=3), segment(after(hours=2), "small")),
    ]
    assert final_cents(told) == final_cents(*parts) == final_cents(*reversed(parts)) == 3000 + 6000 + 3000


def test_a_later_observation_overrides_the_rest_of_an_earlier_timeline() -> None:
    reports = [
        report(
            observed_at=after(hours=1), segments=[segment(after(hours=1), "large"), segment(after(hours=3), "small")]
        ),
        report(observed_at=after(hours=2), segments=[segment(after(hours=2), "large", "suspended")]),
        stopped(after(hours=4)),
    ]
    found = session(*reports)
    assert [found.value_at(after(hours=hours)) for hours in (0, 1, 2, 3)] == [SMALL, LARGE, SUSPENDED, SUSPENDED]
    assert found.cents(START + DAY) == 3000 + 6000


def test_two_segments_at_one_instant_from_two_reports() -> None:
    one = report(observed_at=after(hours=1), segments=[segment(after(hours=1), "small")])
    other = report(observed_at=after(hours=1), segments=[segment(after(hours=1), "large", "suspended")])
    another = report(observed_at=after(hours=1), segments=[segment(after(hours=1), "large")])
    for order in permutations([one, other, another, stopped(after(hours=2))]):
        assert session(*order).value_at(after(hours=1)) == SMALL
    assert session(other, another).value_at(after(hours=1)) == SUSPENDED  # the greater state of the same class
    later = report(observed_at=after(hours=1, microseconds=1), segments=[segment(after(hours=1), "large")])
    assert session(one, other, later).value_at(after(hours=1)) == LARGE


def test_names_compare_by_code_points() -> None:
    prices = dict.fromkeys(("Zeta", "alpha", "\xe9"), PRICES["small"])
    assert sorted(prices) == ["Zeta", "alpha", "\xe9"]
    segments = [report(observed_at=START, segments=[segment(after(hours=1), name)]) for name in prices]
    assert session(*segments, **prices).value_at(after(hours=1)).workspace_class == "\xe9"
    claims = [report(observed_at=START, workspace_class=name) for name in prices]
    assert session(*claims, **prices).claim.workspace_class == "Zeta"


def test_the_least_claim_holds_and_the_others_are_refused() -> None:
    first = report(observed_at=after(hours=2), workspace_class="small")
    other_class = report(observed_at=after(hours=3), workspace_class="large")
    other_user = stopped(after(hours=4), user_id=str(make_id("another")))
    found = session(first, other_class, other_user)
    assert [each.report for each in found.refused] == [other_class, other_user]
    assert (found.facts.report, found.ended_at) == (first, None)
    late = report(observed_at=after(hours=1), workspace_class="large")
    found = session(first, other_class, other_user, late)
    assert [each.report for each in found.refused] == [first, other_user]
    assert found.claim == Claim(after(hours=1), "large", str(make_id("owner")))


def test_of_equal_observations_the_least_class_then_the_least_user_claims() -> None:
    users = sorted(str(make_id(name)) for name in ("a", "b"))
    reports = [
        report(observed_at=START, workspace_class=name, user_id=user) for name in ("small", "large") for user in users
    ]
    assert {session(*order).claim for order in permutations(reports)} == {Claim(START, "large", users[0])}


def test_a_segment_at_the_start_or_before_it_corrects_the_class_and_claims_nothing() -> None:
    first = report(observed_at=START)
    for begin in (START, after(hours=-1)):
        correction = stopped(after(hours=2), segment(begin, "large"))
        assert final_cents(first, correction) == final_cents(correction) == 12_000
        assert session(first, correction).claim == Claim(START, "small", str(make_id("owner")))
        assert session(correction).claim.workspace_class == "small"
        foreign = correction | {"user_id": str(make_id("another"))}
        assert [each.report for each in session(first, foreign).refused] == [foreign]
        renamed = correction | {"workspace_class": "large"}
        assert [each.report for each in session(first, renamed).refused] == [renamed]


def test_a_report_that_needs_a_missing_price_claims_nothing() -> None:
    unpriced = report(
        observed_at=START - HOUR, workspace_class="small", segments=[segment(START, "small", "suspended")]
    )
    unknown = report(observed_at=START - HOUR, workspace_class="gold")
    found = session(unpriced, unknown, stopped(after(hours=1), observed_at=START))
    assert [each.report for each in found.refused] == [unpriced, unknown]
    assert found.cents(START + DAY) == 3000


def test_a_stop_outranks_a_later_observation_and_a_stopping_time_ends_what_is_billed() -> None:
    stop = stopped(after(hours=2), observed_at=after(hours=2))
    running = report(observed_at=after(hours=9))
    stopping = report(observed_at=after(hours=8), stopping_at=after(hours=8))
    assert final_cents(stop, running, stopping) == 6000
    assert final_cents(running, stopping) == 8 * 3000
    assert final_cents(stop, stop | {"stopping_at": after(hours=1).isoformat()}) == 3000
    assert final_cents(stop, stopped(after(hours=1), observed_at=after(hours=3))) == 3000


def test_usage_is_cut_at_segments_and_midnights_and_sums_to_the_charge() -> None:
    resized = segment(after(hours=30), "large")
    told = stopped(after(hours=50), segment(after(hours=23), "large", "suspended"), resized)
    found = session(told)
    shares = found.shares(START, START + 3 * DAY, at=START + 9 * DAY)
    days = [(START + number * DAY).date() for number in range(3)]
    assert shares == {
        (days[0], SMALL): Share(23 * 3000, 23 * 3600),
        (days[0], SUSPENDED): Share(0, 3600),
        (days[1], SUSPENDED): Share(0, 6 * 3600),
        (days[1], LARGE): Share(18 * 6000, 18 * 3600),
        (days[2], LARGE): Share(2 * 6000, 2 * 3600),
    }
    assert add_up(shares.values()) == Share(found.cents(START + 9 * DAY), 50 * 3600)
    part = found.shares(after(hours=22), after(hours=24), at=after(hours=23.5))
    assert part == {(days[0], SMALL): Share(3000, 3600), (days[0], SUSPENDED): Share(0, 1800)}


def test_a_minimum_is_of_the_first_second_and_a_step_of_the_part_in_which_it_begins() -> None:
    small = [Version(START - 99 * DAY, Decimal("0.5"), minimum_cents=70, step_seconds=60)]
    told = stopped(after(seconds=90), segment(after(seconds=30), "large"))
    shares = session(told, small=small).shares(START, START + DAY, at=START + DAY)
    # 70 with the first second; the step that begins at 60 s is large's: 50 + 100 in all.
    assert shares == {(START.date(), SMALL): Share(70, 30), (START.date(), LARGE): Share(80, 60)}


def test_a_session_of_no_length_counts_where_it_started() -> None:
    assert session(stopped(START)).shares(START, START + DAY, at=START + DAY) == {(START.date(), SMALL): Share(0, 0)}
    assert session(stopped(START)).shares(START - DAY, START, at=START + DAY) == {}
    assert session(report()).shares(START - DAY, START + DAY, at=START - HOUR) == {}
