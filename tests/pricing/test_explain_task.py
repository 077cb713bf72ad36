from typing import Any

import pytest

from tests.factories import DAY, HOUR, START, call, make_id, record, stopped_report, team
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.tasks.usage import explain, ledger

NOW = (START + DAY).isoformat()
IT = str(make_id("it"))
KEY = f"session:{IT}:1"


@pytest.fixture(autouse=True)
def posted(rt: Runtime) -> None:
    """One session of an hour, posted."""
    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR, instance_id=make_id("it"), workspace_class="xlarge"))
    call(ledger.reconcile_usage, at=NOW)


def ask(**fields: Any) -> Any:
    return call(explain.explain_usage, actor="service:tests", at=NOW, **fields)


def test_a_session_is_explained_in_json_and_in_words() -> None:
    answer = ask(instance_id=IT)
    numbers = answer["numbers"]
    assert numbers["spans"] == [
        {
            "seconds": 3600,
            "credits_per_minute": "1",
            "effective_from": "1970-01-01T00:00:00Z",
            "product": "3600",
            "workspace_class": "xlarge",
            "state": "running",
        }
    ]
    assert (numbers["exact"], numbers["credit_cents"], numbers["pending_cents"]) == ("3600", 6000, 0)
    assert (numbers["entries"][0]["key"], numbers["entry"]) == (KEY, None)
    assert numbers["facts"]["attribution_id"] == team()
    assert "It costs 6000 credit cents (60.00 credits)." in answer["text"]


def test_an_entry_is_explained_by_its_account_and_key() -> None:
    answer = ask(attribution_id=team(), entry_key=KEY)
    assert answer["numbers"]["entry"]["key"] == KEY
    assert "the entry asked for" in answer["text"]


@pytest.mark.parametrize(
    "fields",
    [{}, {"entry_key": KEY}, {"attribution_id": team()}, {"instance_id": IT, "entry_key": KEY}],
    ids=["nothing", "no account", "no key", "both"],
)
def test_half_a_question_is_refused(fields: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="entry_key"):
        ask(**fields)
