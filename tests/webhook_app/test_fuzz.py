"""A small part of the long runs (tests/webhook_app/fuzz.py, fuzz_socket.py); the first one drawn by Hypothesis."""

import time
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.webhook_app import fuzz_socket
from tests.webhook_app.conftest import Receiver, drain
from tests.webhook_app.fuzz import BATCH, Fuzzed, Watched
from tests.webhook_app.mutations import make_request
from tests.webhook_app.wire import MALFORMED


@pytest.fixture
def fuzzed(broker: str) -> Fuzzed:
    drain(broker)
    Watched().take_over()
    return Fuzzed(broker)


def test_whatever_comes_is_taken_if_it_is_signed_and_an_event_and_only_then(fuzzed: Fuzzed) -> None:
    @settings(max_examples=200, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.randoms(use_true_random=False))
    def check(random: Random) -> None:
        at = int(time.time())
        fuzzed.check([make_request(random, at)], at)

    check()


def test_every_kind_of_mutation_is_met_and_both_verdicts_are(fuzzed: Fuzzed) -> None:
    at = int(time.time())
    for number in range(20):
        fuzzed.check([make_request(Random(1000 * number + each), at) for each in range(BATCH)], at)
    answers = {status for _, _, status, _ in fuzzed.counts}
    assert {200, 400, 404, 405} <= answers <= {200, 400, 404, 405, 413}
    assert fuzzed.verdicts["take"] > 200
    assert fuzzed.verdicts["refuse"] > 600


def test_over_the_socket_what_is_no_http_is_no_500_and_what_is_signed_is_taken(receiver: Receiver, broker: str) -> None:
    seen = fuzz_socket.fuzz(receiver, broker, 400, seed=1, batch=100)
    assert seen["verdicts"]["take"] > 20
    assert seen["verdicts"]["refuse"] > 80
    assert {kind.partition(":")[0] for kind in seen["answers"]} == {"well-formed", *MALFORMED}
