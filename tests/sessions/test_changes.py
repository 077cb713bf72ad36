"""Sessions that are resized, suspended and kept: what their reports say, and what they cost."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import permutations
from typing import Any

import pytest
from sqlalchemy import Connection, text

from tests.factories import (
    DAY,
    HOUR,
    START,
    SYSTEM,
    add_version,
    call,
    make_id,
    record,
    see,
    segment,
    session_report,
    session_row,
    stopped_report,
    team,
)
from usage_tasks.domain.prices import ALL_TIME, AskedPrice
from usage_tasks.domain.rating import PriceVersion
from usage_tasks.domain.sessions import SessionReport
from usage_tasks.domain.states import State
from usage_tasks.runtime import Runtime
from usage_tasks.services.ledger.post_usage import cap_batch, post_batch
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.services.pricing.add_price import add_price_version
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.pricing.prices import publish_prices
from usage_tasks.storage.sessions.quarantine import list_quarantined
from usage_tasks.tasks.usage import explain, sessions

IT = make_id("it")
SECOND = timedelta(seconds=1)
END = START + DAY
RUNNING, SUSPENDED, KEPT = State


def balance(connection: Connection, at: datetime = END) -> int:
    return get_balance(connection, team(), at=at)


def of_state(connection: Connection, name: str, price: str) -> None:
    version = PriceVersion(effective_from=ALL_TIME, credits_per_minute=Decimal(price))
    add_version(connection, name, version)


def timeline(connection: Connection) -> list[tuple[str, str, str]]:
    statement = """
        SELECT w.workspace_class, g.workspace_class, g.state FROM workspace_instance w
        CROSS JOIN LATERAL jsonb_to_recordset(COALESCE(timeline, '[]')) AS g(workspace_class text, state text)
    """
    return [tuple(row) for row in connection.execute(text(statement))]


def refused(connection: Connection) -> list[str]:
    return [each.field for each in list_quarantined(connection, limit=100)]


GROWING = [
    session_report(instance_id=IT, workspace_class="large", observed_at=START),
    session_report(
        instance_id=IT,
        workspace_class="large",
        observed_at=START + 9 * HOUR,
        segments=(segment(START + 9 * HOUR, "xlarge", observed_at=START + 9 * HOUR),),
    ),
    stopped_report(10 * HOUR, instance_id=IT, workspace_class="large"),
]


@pytest.mark.holds("usage.timeline")
@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_nine_hours_at_a_half_and_one_at_one_are_330_credits_in_any_order(
    connection: Connection, order: Sequence[int]
) -> None:
    for number in order:
        record(connection, GROWING[number])
        post_batch(connection, at=END)
    assert balance(connection) == 33_000
    assert verify(connection, at=END).clean


@pytest.mark.holds("usage.timeline")
@pytest.mark.parametrize(("price", "cents"), [("0", 53), ("0.6", 58)])
def test_what_is_suspended_has_the_price_of_its_state(connection: Connection, price: str, cents: int) -> None:
    of_state(connection, "xlarge:suspended", price)
    told = [segment(START + 20 * SECOND, "xlarge", SUSPENDED), segment(START + 25 * SECOND, "xlarge")]
    record(connection, stopped_report(37 * SECOND, workspace_class="xlarge", segments=told))
    assert post_batch(connection, at=END).credit_cents == cents  # 32 s at 1 a minute are 53.3 cents
    assert verify(connection, at=END).clean


@pytest.mark.holds("usage.timeline")
def test_a_change_at_the_instant_of_a_new_price_is_exact(connection: Connection) -> None:
    publish_prices(connection, {"large": Decimal(3), "xlarge": Decimal(2)}, at=START + HOUR, actor=SYSTEM)
    record(connection, stopped_report(2 * HOUR, workspace_class="large", segments=[segment(START + HOUR, "xlarge")]))
    assert balance(connection) == 3_000 + 12_000
    assert balance(connection, START + HOUR) == 3_000
    assert balance(connection, START + HOUR + SECOND) == 3_003


def test_a_price_of_a_state_from_the_past_adjusts_what_was_posted(connection: Connection) -> None:
    of_state(connection, "xlarge:stopped_kept", "0.1")
    told = [segment(START + HOUR, "xlarge", KEPT)]
    record(connection, stopped_report(2 * HOUR, workspace_class="xlarge", segments=told))
    assert post_batch(connection, at=END).credit_cents == 6_600
    asked = AskedPrice(
        workspace_class="xlarge",
        state=KEPT,
        effective_from=START + HOUR + HOUR / 2,
        credits_per_minute=Decimal("0.3"),
        minimum_cents=None,
        rounding_seconds=None,
    )
    planned = add_price_version(connection, asked, at=END, actor=SYSTEM).repricing
    assert (planned.adjustments.rows, planned.adjustments.credit_cents) == (1, 600)
    assert post_batch(connection, at=END).credit_cents == 600
    assert verify(connection, at=END).clean


def test_a_cap_ends_the_timeline_where_it_is(connection: Connection) -> None:
    record(connection, session_report(workspace_class="large", segments=[segment(START + HOUR, "xlarge")]))
    cap_batch(connection, at=END, heartbeat_grace=None, lifetime_max=2 * HOUR)
    assert balance(connection) == 3_000 + 6_000
    assert verify(connection, at=END).clean


@pytest.mark.holds("usage.state-price")
@pytest.mark.parametrize(
    ("segments", "field"),
    [
        ([{"from": START, "workspace_class": "large", "state": "suspended"}], "segments.0"),
        ([{"from": START, "workspace_class": "gold"}], "segments.0"),
        ([{"from": START, "workspace_class": "large", "state": "paused"}], "segments.0.state"),
        ([{"workspace_class": "large"}], "segments.0.from"),
        ([{"from": START}], "segments.0.workspace_class"),
        ([{"from": START + at, "workspace_class": "large"} for at in (HOUR, HOUR)], "segments"),
        ([{"from": START + at, "workspace_class": "large"} for at in (HOUR, SECOND)], "segments"),
        ([{"from": START + n * SECOND, "workspace_class": "large"} for n in range(1001)], "segments"),
        ([{"from": START, "workspace_class": "large", "price": 1}], "segments.0.price"),
        ("large", "segments"),
    ],
)
def test_segments_that_cannot_be_right_are_quarantined(rt: Runtime, segments: Any, field: str) -> None:
    told = (
        segments
        if isinstance(segments, str)
        else [
            {name: value.isoformat() if isinstance(value, datetime) else value for name, value in each.items()}
            for each in segments
        ]
    )
    answer = call(
        sessions.record_instances,
        instances=[session_row(workspace_class="large", segments=told)],
        actor=SYSTEM,
        at=END.isoformat(),
    )
    assert [each["field"] for each in answer["rejections"]] == [field]
    assert "must be" in answer["rejections"][0]["reason"] or "no such field" in answer["rejections"][0]["reason"]


@pytest.mark.holds("usage.state-price")
def test_a_state_without_a_price_waits_for_one(connection: Connection) -> None:
    report = stopped_report(2 * HOUR, workspace_class="large", segments=[segment(START + HOUR, "large", KEPT)])
    done = record(connection, report)
    assert done.rejections[0].reason == (
        "must be a state of class 'large' with a price: add one, which may be 0 (got 'stopped_kept')"
    )
    of_state(connection, "large:stopped_kept", "0")
    assert not record(connection, report).rejections
    assert balance(connection) == 3_000


def test_the_present_state_belongs_to_snapshots(connection: Connection, rt: Runtime) -> None:
    row = session_row(state="suspended")
    answer = call(sessions.record_instances, instances=[row], actor=SYSTEM, at=END.isoformat())
    assert [(each["field"], each["reason"]) for each in answer["rejections"]] == [
        ("state", "must be given in \"segments\"; in a file, with `from` (got 'suspended')")
    ]


LATER = session_report(instance_id=IT, workspace_class="xlarge", observed_at=START + HOUR)
FIRST = stopped_report(2 * HOUR, instance_id=IT, workspace_class="large", observed_at=START)
AGREES = session_report(
    instance_id=IT,
    workspace_class="xlarge",
    observed_at=START + 2 * HOUR,
    segments=(segment(START + HOUR, "small", observed_at=START + 2 * HOUR),),
)


@pytest.mark.holds("usage.fixed-facts")
def test_a_report_with_another_class_is_quarantined_with_the_segments_to_send(connection: Connection) -> None:
    record(connection, FIRST)
    done = record(connection, LATER)
    assert done.rejections[0].reason == (
        f"must be 'large', the class of session {IT} at its start by its earliest report (got 'xlarge'): report a "
        'change as segments, such as [{"from": "2026-01-31T12:00:00Z", "workspace_class": "xlarge"}]'
    )
    assert balance(connection) == 6_000


@pytest.mark.holds("usage.fixed-facts")
@pytest.mark.parametrize("order", list(permutations([FIRST, LATER, AGREES])), ids=range(6))
@pytest.mark.parametrize("posted", [False, True])
def test_the_earliest_report_holds_whichever_arrives_first(
    connection: Connection, order: Sequence[SessionReport], *, posted: bool
) -> None:
    for report in order:
        record(connection, report)
        if posted:
            post_batch(connection, at=END)
    assert balance(connection) == 6_000
    assert timeline(connection) == []
    assert set(refused(connection)) == {"workspace_class"}
    post_batch(connection, at=END)
    assert verify(connection, at=END).clean
    # An even earlier report agrees with the two that wait: they are taken up, and FIRST waits.
    record(connection, session_report(instance_id=IT, workspace_class="xlarge", observed_at=START - HOUR))
    assert timeline(connection) == [("xlarge", "small", "running")]
    assert balance(connection, START + 3 * HOUR) == 6_000 + 2 * 600
    assert len(refused(connection)) == 1
    assert verify(connection, at=END).clean


@pytest.mark.holds("usage.fixed-facts")
@pytest.mark.parametrize("first_arrives", [True, False])
def test_so_it_is_with_the_user(connection: Connection, *, first_arrives: bool) -> None:
    other = session_report(instance_id=IT, user_id=make_id("another"), observed_at=START + HOUR)
    mine = session_report(instance_id=IT, observed_at=START)
    for report in [mine, other] if first_arrives else [other, mine]:
        record(connection, report)
    assert refused(connection) == ["user_id"]
    held = connection.execute(text("SELECT user_id FROM workspace_instance")).scalars().all()
    assert held == [make_id("owner")]
    [waiting] = list_quarantined(connection, limit=10)
    assert waiting.reason == (
        f"must be {make_id('owner')}, the user of session {IT} by its earliest report (got '{make_id('another')}'): "
        "report another user's time as a session of its own"
    )


@pytest.mark.holds("usage.fixed-facts")
def test_a_wrong_class_at_the_start_is_corrected_by_a_segment_from_the_start(connection: Connection) -> None:
    record(connection, FIRST)
    post_batch(connection, at=END)
    right = (segment(START, "xlarge", observed_at=END),)
    record(connection, session_report(instance_id=IT, workspace_class="large", observed_at=END, segments=right))
    assert post_batch(connection, at=END).credit_cents == 6_000
    assert balance(connection) == 12_000
    assert verify(connection, at=END).clean


@pytest.mark.holds("usage.snapshot-present")
def test_a_row_of_a_snapshot_says_the_present(connection: Connection) -> None:
    of_state(connection, "large:suspended", "0.1")
    it: dict[str, Any] = {"instance_id": IT, "workspace_class": "large"}
    see(connection, "eu", START, session_report(**it))
    see(connection, "eu", START + HOUR, session_report(**it | {"observed_at": START + HOUR, "state": SUSPENDED}))
    see(
        connection, "eu", START + 2 * HOUR, session_report(**it | {"observed_at": START + 2 * HOUR, "state": SUSPENDED})
    )
    grown = {"workspace_class": "xlarge", "observed_at": START + 3 * HOUR}
    see(connection, "eu", START + 3 * HOUR, session_report(**it | grown))
    assert timeline(connection) == [("large", "large", "suspended"), ("large", "xlarge", "running")]
    assert balance(connection, START + 4 * HOUR) == 3_000 + 2 * 600 + 6_000
    assert refused(connection) == []


@pytest.mark.holds("usage.snapshot-present")
def test_a_session_that_a_snapshot_finds_suspended_began_as_its_row_says(connection: Connection) -> None:
    of_state(connection, "large:suspended", "0.1")
    row = {"workspace_class": "large", "observed_at": START + HOUR, "state": SUSPENDED}
    see(connection, "eu", START + HOUR, session_report(**row))
    assert balance(connection, START + 2 * HOUR) == 3_000 + 600


@pytest.mark.holds("usage.explain")
def test_an_explanation_names_each_part(rt: Runtime) -> None:
    with rt.transaction() as connection:
        of_state(connection, "large:suspended", "0.1")
        told = (segment(START + HOUR, "large", SUSPENDED), segment(START + 2 * HOUR, "xlarge"))
        record(connection, stopped_report(3 * HOUR, instance_id=IT, workspace_class="large", segments=told))
        post_batch(connection, at=END)
    answer = call(explain.explain_usage, actor="service:tests", at=END.isoformat(), instance_id=str(IT))
    spans = [(each["seconds"], each["workspace_class"], each["state"]) for each in answer["numbers"]["spans"]]
    assert spans == [(3600, "large", "running"), (3600, "large", "suspended"), (3600, "xlarge", "running")]
    assert (
        "3600 seconds as large, suspended, at 0.1 credits a minute (the first price): 3600 x 0.1 = 360"
        in answer["text"]
    )
    assert answer["numbers"]["credit_cents"] == 3_000 + 600 + 6_000
    assert len(answer["numbers"]["facts"]["timeline"]) == 2
