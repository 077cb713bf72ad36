"""A receiver and a platform that know their installation send nothing to another one's Redis."""

import logging

import pytest

from tests.factories import session_row, team
from tests.installation.sides import make_app
from tests.webhook_app.receiver import configuration
from usage_tasks.client import ForeignInstallationError, WrongBrokerError, record, record_unconfirmed, tell_users
from usage_tasks.coordination.keyspace import key_of
from usage_tasks.runtime import Runtime
from usage_tasks.stripe_gateway.webhooks import VerifiedEvent
from usage_tasks.webhook_app.publishing import BrokerAwayError, Publisher

ACTOR = "service:tests"
OURS = "0b1c2d3e-0000-4000-8000-000000000001"
THEIRS = "0b1c2d3e-0000-4000-8000-000000000002"


@pytest.fixture
def publisher(redis_url: str) -> Publisher:
    """The receiver's way to the broker, which keeps to one installation."""
    return Publisher(configuration(redis_url).broker, installation=OURS)


def event() -> VerifiedEvent:
    return VerifiedEvent(event_id="evt_1", event_type="invoice.paid", body="{}")


def send(publisher: Publisher) -> None:
    publisher.submit(event()).result(timeout=10)


def test_the_receiver_hands_nothing_to_another_installation_and_is_not_ready(
    rt: Runtime, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    rt.redis.set("installation", f"{THEIRS}@1/2")  # the receiver of this test has no prefix
    with caplog.at_level(logging.ERROR), pytest.raises(BrokerAwayError, match="another installation"):
        send(publisher)
    assert not publisher.is_reachable()
    assert rt.redis.llen("stripe") == 0


@pytest.mark.parametrize("held", [f"{OURS}@1/2", None])
def test_the_receiver_sends_to_its_own_installation_and_to_a_flushed_redis(
    rt: Runtime, publisher: Publisher, held: str | None
) -> None:
    if held is not None:
        rt.redis.set("installation", held)
    send(publisher)
    assert publisher.is_reachable()
    assert rt.redis.llen("stripe") == 1


def test_the_receiver_takes_up_sending_once_the_redis_is_its_own_again(rt: Runtime, publisher: Publisher) -> None:
    rt.redis.set("installation", f"{THEIRS}@1/2")
    with pytest.raises(BrokerAwayError):
        send(publisher)
    rt.redis.set("installation", f"{OURS}@1/2")
    send(publisher)
    assert rt.redis.llen("stripe") == 1


@pytest.mark.parametrize("by", ["application", "environment"])
def test_a_platform_that_names_its_installation_sends_nothing_to_another(
    rt: Runtime, redis_url: str, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    app = make_app(redis_url, "usage:")
    if by == "application":
        app.conf["usage_installation"] = OURS
    else:
        monkeypatch.setenv("USAGE_INSTALLATION", OURS)
    rt.redis.set(key_of(rt.redis, "installation"), f"{THEIRS}@1/2")
    with pytest.raises(ForeignInstallationError, match=f"must be {OURS}.*got {THEIRS}"):
        record(app, [session_row()], actor=ACTOR)
    with pytest.raises(ForeignInstallationError):
        record_unconfirmed(app, [session_row()], actor=ACTOR)
    with pytest.raises(ForeignInstallationError):
        tell_users(app, [{"user_id": team()}], actor=ACTOR)
    assert (rt.redis.llen("usage:usage"), rt.redis.llen("usage:directory")) == (0, 0)
    rt.redis.set(key_of(rt.redis, "installation"), f"{OURS}@1/2")
    record_unconfirmed(app, [session_row()], actor=ACTOR)
    assert rt.redis.llen("usage:usage") == 1
    app.close()


def test_a_platform_sends_nothing_over_tls_that_is_not_verified() -> None:
    app = make_app("redis://127.0.0.1:1/0", "usage:")
    app.conf["broker_url"] = "rediss://127.0.0.1:1/0"
    with pytest.raises(WrongBrokerError, match="ssl_cert_reqs=required"):
        record(app, [session_row()], actor=ACTOR)
