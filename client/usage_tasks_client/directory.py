"""Send users and teams to the directory."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from celery import Celery

from usage_tasks_client.batches import BATCH, Report
from usage_tasks_client.broker import check_broker

_MEMBERS_MAX: Final = 20_000


def tell_users(app: Celery, users: Sequence[Report], *, actor: str) -> None:
    """Send users to the directory without waiting. Sending all of them now and then makes up for what got lost.

    The shape of each is that of `directory.upsert_users`. E-mails stay out of the headers of the messages, which
    everybody who watches the events can read.
    """
    for begin in range(0, len(users), BATCH):
        _send(app, "upsert_users", {"users": list(users[begin : begin + BATCH]), "actor": actor})


def tell_teams(app: Celery, teams: Sequence[Report], *, actor: str) -> None:
    """Send teams to the directory, each with all its members, without waiting."""
    batch: list[Report] = []
    members = 0
    for team in teams:
        if batch and (len(batch) == BATCH or members + len(team["members"]) > _MEMBERS_MAX):
            _send(app, "upsert_teams", {"teams": batch, "actor": actor})
            batch, members = [], 0
        batch.append(team)
        members += len(team["members"])
    if batch:
        _send(app, "upsert_teams", {"teams": batch, "actor": actor})


def _send(app: Celery, name: str, arguments: Mapping[str, Any]) -> None:
    check_broker(app)
    hidden: dict[str, Any] = {"argsrepr": "(hidden)", "kwargsrepr": "(hidden)"}
    app.send_task(f"directory.{name}", kwargs=dict(arguments), queue="directory", ignore_result=True, **hidden)
