"""A peer that accepts connections and answers nothing: the doctor ends, names it, and looks at everything else."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from tests.chaos.proxy import Wire
from tests.commands.doctor.conftest import Installation
from tests.commands.doctor.page import FAULTS, to_see_to
from usage_tasks.celery import app
from usage_tasks.embedded.processes import free_port

pytestmark = pytest.mark.timeout(60)


@dataclass
class Silence:
    """Puts silent wires before the servers of an installation."""

    installation: Installation
    wires: list[Wire] = field(default_factory=list)

    def before(self, variable: str, url: str) -> None:
        """Lead a URL through a wire that accepts connections and forwards nothing."""
        made = make_url(url)
        wire = Wire(made.port or free_port())
        wire.silence()
        self.wires.append(wire)
        self.installation.set(variable, made.set(port=wire.port).render_as_string(hide_password=False))


@pytest.fixture
def silence(installation: Installation) -> Any:
    assert app.conf["broker_url"]  # read once in a process: not while its variable leads through a wire
    made = Silence(installation)
    yield made
    for wire in made.wires:
        wire.close()


def silence_database(silence: Silence) -> None:
    silence.before("DATABASE_URL", silence.installation.rt.settings.database_url)


def silence_redis(silence: Silence) -> None:
    silence.before("REDIS_URL", silence.installation.rt.settings.redis_url)


def silence_stripe(silence: Silence) -> None:
    silence.installation.set("USAGE_STRIPE_PRICES", '{"teamUsagePriceId": "price_1"}')
    silence.before("USAGE_STRIPE_API_BASE", f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize(
    ("silent", "fault", "unasked"),
    [
        (silence_database, "database silent", "migrations"),
        (silence_redis, "Redis silent", "poison"),
        (silence_stripe, "Stripe away", ""),
    ],
    ids=["database", "redis", "stripe"],
)
def test_a_silent_peer_is_named_and_hides_no_other(
    silence: Silence, silent: Callable[[Silence], None], fault: str, unasked: str
) -> None:
    silence.installation.set("USAGE_CONTROLER_SCHEDULE", "15m")
    silent(silence)
    found = silence.installation.examine()
    named = to_see_to(found)
    assert any(FAULTS[fault].is_in(each) for each in named), named
    assert {each.check for each in named} == {"variables", FAULTS[fault].check}
    assert {"migrations", "poison", "beat"} - {unasked} <= {each.check for each in found}


def test_with_every_peer_silent_each_is_named(silence: Silence) -> None:
    for silent in (silence_database, silence_redis, silence_stripe):
        silent(silence)
    assert {"database", "broker", "stripe"} <= {each.check for each in to_see_to(silence.installation.examine())}


def test_a_database_that_is_slow_again_and_again_is_given_up_and_what_it_said_is_kept(
    installation: Installation,
) -> None:
    installation.set("USAGE_CREDITS_PER_MINUTE_BY_WORKSPACE_CLASS", '{"large": 0.6}')
    with installation.rt.transaction() as connection:
        connection.execute(text("LOCK TABLE job_run, stripe_customer, stripe_event, outbox IN ACCESS EXCLUSIVE MODE"))
        named = to_see_to(installation.examine())
    assert {each.check for each in named} == {"prices", "database"}
    assert any(FAULTS["database slow"].is_in(each) for each in named)
    assert any("canceling statement due to" in each.found for each in named)
