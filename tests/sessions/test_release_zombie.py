import json

import pytest

from tests.factories import DAY, HOUR, START, call, session_row
from usage_tasks.commands.sessions import zombies
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.usage import ledger, sessions

ACTOR = "service:tests"


@pytest.fixture
def environment(environment: dict[str, str]) -> dict[str, str]:
    """An installation with both bounds."""
    return environment | {"USAGE_HEARTBEAT_GRACE": "10m", "USAGE_MAX_SESSION_LIFETIME": "36h"}


@pytest.mark.holds("usage.zombie")
def test_the_ledger_job_caps_and_counts_and_a_release_lifts(rt: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    row = session_row()
    call(sessions.record_instances, instances=[row], actor=ACTOR, at=START.isoformat())
    at = (START + HOUR).isoformat()
    assert call(ledger.reconcile_usage, at=at)["zombies"] == 1
    assert call(ledger.reconcile_usage, at=at)["zombies"] == 0
    capsys.readouterr()
    zombies.list_capped(limit=10)
    (line,) = [json.loads(text) for text in capsys.readouterr().out.splitlines()]
    assert (line["instance_id"], line["cap_reason"]) == (row["instance_id"], "heartbeat")
    assert line["capped_at"] == "2026-01-01T00:10:00+00:00"
    released = call(sessions.release_session, instance_id=row["instance_id"], actor=ACTOR, at=at)
    assert released == {
        "instance_id": row["instance_id"],
        "released": "heartbeat",
        "capped_at": "2026-01-01T00:10:00Z",
    }
    again = call(sessions.release_session, instance_id=row["instance_id"], actor=ACTOR, at=at)
    assert (again["released"], again["capped_at"]) == (None, None)
    assert call(ledger.reconcile_usage, at=(START + DAY).isoformat())["zombies"] == 0


def test_a_release_of_an_unknown_session_is_refused(rt: Runtime) -> None:
    with pytest.raises(InvalidInputError, match="`instance_id`: no such session"):
        call(sessions.release_session, instance_id=session_row()["instance_id"], actor=ACTOR, at=START.isoformat())
