import threading
import time
from typing import Any

import pytest
import requests
import stripe

from tests.stripe_simulator.conftest import Account, connect, wait_until
from usage_tasks.stripe_simulator import Settings, serve


def faulty(kind: str, **options: str) -> dict[str, Any]:
    """Request options of the SDK that ask for a fault."""
    rest = "".join(f"; {name}={value}" for name, value in options.items())
    return {"headers": {"Simulator-Fault": f"{kind}{rest}"}}


def customers(account: Account) -> int:
    return len(account.v1.customers.list({"limit": 100}).data)


@pytest.mark.parametrize(
    ("kind", "status", "code", "error"),
    [
        ("rate_limited", 429, "rate_limit", stripe.RateLimitError),
        ("lock_timeout", 409, "lock_timeout", stripe.APIError),
        ("key_in_use", 409, "idempotency_key_in_use", stripe.APIError),
        ("server_error", 500, None, stripe.APIError),
    ],
)
def test_a_refusal_by_header_has_no_effect_and_leaves_the_key_free(
    account: Account, kind: str, status: int, code: str | None, error: type[stripe.StripeError]
) -> None:
    with pytest.raises(error) as caught:
        account.v1.customers.create({}, {"idempotency_key": "one", **faulty(kind)})
    assert caught.value.http_status == status
    body: Any = caught.value.json_body
    assert body["error"].get("code") == code
    assert customers(account) == 0
    created = account.v1.customers.create({}, {"idempotency_key": "one"})
    assert "Idempotent-Replayed" not in created.last_response.headers
    assert account.faults()["counts"] == {kind: 1}


def test_a_rate_limit_says_when_to_come_back(account: Account) -> None:
    with pytest.raises(stripe.RateLimitError) as caught:
        account.v1.customers.create({}, faulty("rate_limited", seconds="7"))
    assert (caught.value.headers or {})["Retry-After"] == "7"


@pytest.mark.parametrize("kind", ["cut_before", "hang_before"])
def test_a_connection_lost_before_the_effect_leaves_none(simulator: Any, kind: str) -> None:
    account = connect(simulator.url, read_seconds_max=0.2)
    with pytest.raises(stripe.APIConnectionError):
        account.v1.customers.create({}, faulty(kind))
    assert customers(account) == 0
    (entry,) = account.faults()["injected"]
    assert (entry["kind"], entry["source"], entry["effect_status"]) == (kind, "header", None)


@pytest.mark.parametrize("kind", ["cut_after", "hang_after"])
def test_an_answer_lost_after_the_effect_is_found_by_the_same_key(simulator: Any, kind: str) -> None:
    account = connect(simulator.url, read_seconds_max=0.2)
    with pytest.raises(stripe.APIConnectionError):
        account.v1.customers.create({}, {"idempotency_key": "one", **faulty(kind)})
    assert customers(account) == 1
    found = account.v1.customers.create({}, {"idempotency_key": "one"})
    assert found.last_response.headers["Idempotent-Replayed"] == "true"
    assert customers(account) == 1
    assert account.faults()["injected"][0]["effect_status"] == 200


def test_a_hanging_answer_never_comes_however_patient_the_client(account: Account) -> None:
    started = time.monotonic()
    with pytest.raises(stripe.APIConnectionError):
        account.v1.customers.create({}, faulty("hang_after", seconds="0.3"))
    assert 0.3 <= time.monotonic() - started < 5


def test_a_slow_answer_comes_late_and_whole_and_slows_nobody_else(account: Account) -> None:
    account.switch("faults", kind="slow", method="POST", seconds=0.3)
    started = time.monotonic()
    account.v1.customers.create()
    assert time.monotonic() - started >= 0.3
    started = time.monotonic()
    assert customers(account) == 1
    assert time.monotonic() - started < 0.3


def test_a_hanging_answer_ends_with_the_simulator() -> None:
    threads = threading.active_count()
    with serve(Settings()) as server:
        account = connect(server.url, read_seconds_max=0.1)
        with pytest.raises(stripe.APIConnectionError):
            account.v1.customers.create({}, faulty("hang_after"))
    wait_until(lambda: threading.active_count() <= threads, seconds=5)


def test_a_rule_fails_the_requests_that_it_describes_and_no_others(account: Account) -> None:
    one, other = account.v1.customers.create(), account.v1.customers.create()
    rule = {"kind": "server_error", "method": "POST", "path": "/v1/customers/*", "customer": one.id}
    account.switch("faults", **rule, skip=1, count=1)
    account.v1.customers.update(one.id, {"name": "passes"})
    account.v1.customers.retrieve(one.id)
    account.v1.customers.update(other.id, {"name": "another's"})
    with pytest.raises(stripe.APIError):
        account.v1.customers.update(one.id, {"name": "fails"})
    account.v1.customers.update(one.id, {"name": "used up"})
    (shown,) = account.faults()["rules"]
    assert (shown["matched"], shown["injected"]) == (2, 1)


def test_a_rule_finds_the_customer_in_the_payload_of_a_meter_event(account: Account) -> None:
    price = account.metered_price()
    one, other = account.subscribe(price).customer, account.subscribe(price).customer
    account.switch("faults", kind="rate_limited", path="/v1/billing/meter_events", customer=one)
    account.report(other, "1", at=None)
    with pytest.raises(stripe.RateLimitError):
        account.report(one, "1", at=None)


def outcomes(account: Account, *, seed: int) -> str:
    requests.delete(f"{account.url}/_simulator/faults", timeout=5)
    account.switch("faults", kind="server_error", probability=0.3, seed=seed)
    tries = [requests.get(f"{account.url}/v1/customers", timeout=5) for _ in range(60)]
    return "".join("x" if one.status_code == 500 else "." for one in tries)


def test_chance_follows_the_seed(account: Account) -> None:
    first, second, other = (outcomes(account, seed=seed) for seed in (1, 1, 2))
    assert first == second != other
    assert 8 <= first.count("x") <= 28
    assert account.faults()["counts"] == {"server_error": other.count("x")}


def test_a_rule_can_be_taken_back_alone_and_all_of_them_with_the_record(account: Account) -> None:
    kept = account.switch("faults", kind="slow", path="/v1/prices*")["id"]
    gone = account.switch("faults", kind="server_error")["id"]
    with pytest.raises(stripe.APIError):
        account.v1.customers.create()
    left = requests.delete(f"{account.url}/_simulator/faults", json={"rule": gone}, timeout=5).json()
    assert [rule["id"] for rule in left["rules"]] == [kept]
    assert left["counts"] == {"server_error": 1}
    account.v1.customers.create()
    assert requests.delete(f"{account.url}/_simulator/faults", json={"rule": gone}, timeout=5).status_code == 404
    empty = requests.delete(f"{account.url}/_simulator/faults", timeout=5).json()
    assert empty == {"rules": [], "counts": {}, "injected": []}


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ({}, "kind"),
        ({"kind": "explosion"}, "kind"),
        ({"kind": "slow", "seconds": 121}, "seconds"),
        ({"kind": "slow", "probability": 1.1}, "probability"),
        ({"kind": "slow", "count": 0}, "count"),
        ({"kind": "slow", "pathx": "/"}, "pathx"),
        (["slow"], "JSON object"),
    ],
)
def test_a_rule_that_nobody_means_is_refused_by_name(account: Account, rule: Any, named: str) -> None:
    reply = requests.post(f"{account.url}/_simulator/faults", json=rule, timeout=5)
    assert reply.status_code == 400
    assert named in reply.json()["error"]["message"]


def test_a_header_that_nobody_means_is_refused(account: Account) -> None:
    with pytest.raises(stripe.InvalidRequestError, match="kind"):
        account.v1.customers.create({}, faulty("explosion"))
    assert customers(account) == 0


@pytest.mark.parametrize(("kind", "made"), [("error_kept", 0), ("error_kept_after", 1)])
def test_an_error_that_came_late_is_repeated_under_its_key(account: Account, kind: str, made: int) -> None:
    key = {"idempotency_key": "late"}
    with pytest.raises(stripe.APIError) as first:
        account.v1.customers.create({}, key | faulty(kind))
    with pytest.raises(stripe.APIError) as again:
        account.v1.customers.create({}, key)
    assert [error.value.http_status for error in (first, again)] == [500, 500]
    assert "Idempotent-Replayed" not in (first.value.headers or {})
    assert (again.value.headers or {})["Idempotent-Replayed"] == "true"
    assert customers(account) == made
    account.v1.customers.create({}, {"idempotency_key": "fresh"})
    assert customers(account) == made + 1
