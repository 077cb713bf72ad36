from typing import Any

import pytest

from tests.factories import DAY, HOUR, START, call, record, stopped_report, team
from tests.snapshot import snapshot
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.storage.pricing.prices import list_versions
from usage_tasks.tasks.task import ArgumentsError
from usage_tasks.tasks.usage import ledger, prices

NOW = (START + DAY).isoformat()
ASKED = {
    "workspace_class": "xlarge",
    "actor": "service:tests",
    "credits_per_minute": "2",
    "effective_from": START.isoformat(),
    "at": NOW,
}


def add(**fields: Any) -> Any:
    return call(prices.add_price_version, **ASKED | fields)


@pytest.mark.holds("numbers.past-price")
def test_a_price_is_a_dry_run_unless_told_otherwise(rt: Runtime) -> None:
    with rt.transaction() as connection:
        record(connection, stopped_report(HOUR, workspace_class="xlarge"))
    call(ledger.reconcile_usage, at=NOW)
    before = snapshot(rt.database)
    dry = add()
    assert snapshot(rt.database) == before
    done = add(dry_run=False)
    assert dry == {"dry_run": done}
    assert done["version"] == {
        "effective_from": "2026-01-01T00:00:00Z",
        "credits_per_minute": "2",
        "rule": {"minimum_cents": 0, "rounding_seconds": 1},
    }
    assert (done["repricing"]["adjustments"]["rows"], done["repricing"]["adjustments"]["credit_cents"]) == (1, 6000)
    assert done["repricing"]["by_account"] == [{"attribution_id": team(), "entries": 1, "credit_cents": 6000}]
    posted = call(ledger.reconcile_usage, at=NOW)
    assert (posted["entries"], posted["credit_cents"]) == (1, 6000)


def test_a_price_is_the_decimal_that_was_written(rt: Runtime) -> None:
    add(credits_per_minute="0.16666666670000000001", minimum_credits="0.29", rounding_seconds=90, dry_run=False)
    with rt.transaction() as connection:
        version = list_versions(connection, "xlarge")[-1].version
    assert str(version.credits_per_minute) == "0.16666666670000000001"
    assert (version.rule.minimum_cents, version.rule.rounding_seconds) == (29, 90)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("credits_per_minute", 0.1),
        ("credits_per_minute", 1),
        ("credits_per_minute", "-1"),
        ("credits_per_minute", "1e3"),
        ("credits_per_minute", "NaN"),
        ("credits_per_minute", ""),
        ("credits_per_minute", "1000001"),
        ("credits_per_minute", "0.000000000000000000001"),
        ("credits_per_minute", "\u0661"),
        ("minimum_credits", "0.001"),
        ("minimum_credits", 1),
        ("rounding_seconds", 0),
        ("rounding_seconds", 86_401),
        ("rounding_seconds", "60"),
        ("effective_from", "2026-01-01"),
        ("workspace_class", ""),
        ("actor", "root"),
    ],
)
def test_a_bad_value_is_refused_by_name(rt: Runtime, field: str, value: object) -> None:
    with pytest.raises(ArgumentsError, match=field):
        add(**{field: value})


def test_an_instant_that_has_a_version_is_refused(rt: Runtime) -> None:
    add(dry_run=False)
    for dry_run in (True, False):
        with pytest.raises(InvalidInputError, match=r"`effective_from`: .* \(got '2026-01-01T00:00:00"):
            add(dry_run=dry_run)
