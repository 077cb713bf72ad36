"""A process's readings of the clocks around it, from a real database and a real Redis."""

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY

from tests.database_clock import set_database_clock
from tests.stripe_gateway.canned import answering
from usage_tasks.runtime import Runtime
from usage_tasks.stripe_gateway.live import LiveGateway
from usage_tasks.telemetry.clocks import CLOCKS, STRIPE, Clocks
from usage_tasks.telemetry.logs import configure_logging

HOUR = timedelta(hours=1)


def look(clocks: Clocks, rt: Runtime) -> None:
    answer: Any = rt.redis.time()
    clocks.ask("redis", lambda: float(answer[0]) + answer[1] / 1_000_000)
    clocks.ask("database", lambda: rt.database.read_clock().timestamp())
    clocks.report()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    said = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    return [each for each in said if each["event"].startswith("clock.")]


def skew(peer: str) -> float:
    return REGISTRY.get_sample_value("usage_clock_skew_seconds", {"peer": peer}) or 0.0


@pytest.mark.holds("clocks.skew")
def test_a_database_whose_clock_is_set_back_is_noticed_against_the_others(
    rt: Runtime, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    clocks = Clocks()
    set_database_clock(database_url, timedelta(0))
    look(clocks, rt)
    assert lines(capsys) == []
    assert abs(skew("database")) < 2
    jumps = REGISTRY.get_sample_value("usage_clock_jumps_total", {"clock": "database"}) or 0.0
    set_database_clock(database_url, -HOUR)
    look(clocks, rt)
    jumped, wrong = lines(capsys)
    assert (jumped["event"], jumped["clock"], jumped["level"]) == ("clock.jumped", "database", "warning")
    assert jumped["seconds"] == pytest.approx(-3600, abs=2)
    assert (wrong["event"], wrong["clocks"], wrong["level"]) == ("clock.wrong", ["database"], "warning")
    assert skew("database") == pytest.approx(-3600, abs=2)
    assert REGISTRY.get_sample_value("usage_clock_jumps_total", {"clock": "database"}) == jumps + 1


def test_stripe_s_clock_is_read_from_its_answers(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    clocks = Clocks()
    clocks.note_date("stripe", (datetime.now(UTC) - HOUR).replace(microsecond=0), asked=time.time())
    assert clocks.fresh()["stripe"].ahead == pytest.approx(-3600, abs=2)
    clocks.report()
    (wrong,) = lines(capsys)
    assert wrong["clocks"] == ["host", "stripe"]


def test_each_answer_of_stripe_shows_its_clock() -> None:
    with answering((200, {"object": "list", "data": [], "has_more": False})) as stripe:
        asked = LiveGateway(secret_key="sk_test_none", meter_event_name="usage", api_base=stripe.url)
        asked.list_invoices(created_from=None, created_until=datetime.now(UTC), after=None, limit=1)
    assert abs(CLOCKS.fresh()[STRIPE].ahead) <= 2
    assert abs(skew(STRIPE)) <= 2
