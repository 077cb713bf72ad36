"""`listen` declares every announcement, so that a platform's worker destroys none."""

import json

import pytest
from celery import Celery

from usage_tasks.domain import announcements
from usage_tasks_client import ANNOUNCEMENTS, listen


@pytest.fixture
def platform() -> Celery:
    return Celery("platform", set_as_current=False)


def test_the_client_knows_every_announcement() -> None:
    assert list(ANNOUNCEMENTS) == list(announcements.ANNOUNCEMENTS)


@pytest.mark.parametrize("name", ANNOUNCEMENTS)
def test_an_announcement_reaches_the_handler_with_its_name_and_its_fields(platform: Celery, name: str) -> None:
    received: list[str] = []

    def handle(name: str, attribution_id: str, **fields: object) -> None:
        received.append(json.dumps([name, attribution_id, fields]))

    listen(platform, handle)
    platform.finalize()
    platform.tasks[name](attribution_id="team:x", percent=50)
    assert received == [json.dumps([name, "team:x", {"percent": 50}])]


def test_a_message_is_acknowledged_after_the_handler_unless_the_platform_wants_otherwise(platform: Celery) -> None:
    listen(platform, print)
    other = Celery("other", set_as_current=False)
    listen(other, print, acks_late=False, max_retries=7)
    for app in (platform, other):
        app.finalize()
    name = ANNOUNCEMENTS[0]
    assert platform.tasks[name].acks_late is True
    assert (other.tasks[name].acks_late, other.tasks[name].max_retries) == (False, 7)
