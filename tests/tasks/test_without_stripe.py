"""An installation without Stripe: its ticks end quietly, and what waits for Stripe is seen."""

import json
import logging
import pickle
from typing import Any, Final

import pytest
from celery.utils.serialization import ensure_serializable
from sqlalchemy import text
from structlog.testing import capture_logs
from typer.testing import CliRunner

from tests.factories import START, call, team
from tests.tasks.test_task import as_if_delivered
from usage_tasks.celery import app
from usage_tasks.celery_files.beat_schedule import make_beat_schedule
from usage_tasks.cli import cli
from usage_tasks.coordination.clock import TestClock
from usage_tasks.runtime import Runtime
from usage_tasks.settings import SettingsError, read_stripe_credentials
from usage_tasks.settings.errors import StripeNotConfiguredError
from usage_tasks.tasks import task
from usage_tasks.tasks.stripe import events, review

MISSING: Final = (
    "Stripe is not configured: `stripeCredentialsFile`: must be given (got nothing), or STRIPE_SECRET_KEY and "
    "STRIPE_WEBHOOK_SECRET"
)


@pytest.fixture(autouse=True)
def time(rt: Runtime) -> None:
    TestClock(rt.redis).advance(START)


def put_on_stripe(rt: Runtime) -> None:
    with rt.transaction() as connection:
        connection.execute(
            text(
                "INSERT INTO cost_center (attribution_id, version, billing_strategy, spending_limit, cycle_anchor_at,"
                " cycle_number, cycle_started_at, next_billing_at, actor)"
                " VALUES (:account, 1, 'stripe', 1, now(), 0, now(), now() + interval '1 month', 'service:tests')"
            ),
            {"account": team()},
        )


def put_event(rt: Runtime, kind: str = "invoice.finalized") -> None:
    payload = {"id": "evt_1", "object": "event", "type": kind, "created": int(START.timestamp())}
    payload |= {"api_version": "2025-01-01", "livemode": False, "data": {"object": {"id": "in_1", "object": "invoice"}}}
    call(events.receive_event, event_id="evt_1", payload=json.dumps(payload))


def test_every_tick_of_beat_ends_without_an_error(rt: Runtime, subtests: pytest.Subtests) -> None:
    app.loader.import_default_modules()
    ticks = make_beat_schedule(rt.settings)
    assert {"billing.settle_doubts", "stripe.apply_events", "stripe.backfill_events"} <= set(ticks)
    assert {"billing.reconcile_invoices", "billing.sync", "billing.drift_report"} <= set(ticks)
    for name, tick in ticks.items():
        with subtests.test(name):
            answer: Any = app.tasks[name](**tick["kwargs"])
            assert "skipped" not in answer
            assert not any(answer[what] for what in answer if isinstance(answer[what], int))


@pytest.mark.parametrize("name", ["billing.reconcile_invoices", "stripe.backfill_events"])
@pytest.mark.parametrize("work", [put_on_stripe, put_event])
def test_a_job_that_asks_stripe_fails_where_an_account_or_an_event_waits(rt: Runtime, name: str, work: Any) -> None:
    app.loader.import_default_modules()
    work(rt)
    with pytest.raises(StripeNotConfiguredError):
        app.tasks[name](scheduled=True)


def test_a_job_that_is_asked_for_by_hand_names_the_missing_setting(rt: Runtime) -> None:
    with pytest.raises(StripeNotConfiguredError) as refused:
        call(review.backfill_events)
    assert str(refused.value) == MISSING
    assert rt.settings.stripe_credentials_file is None


def test_an_event_that_waits_is_a_refusal_in_one_line(rt: Runtime) -> None:
    put_event(rt)
    vars(task.log).pop("bind", None)  # structlog's: a command in this process may have bound it before
    with capture_logs() as lines, as_if_delivered(events.apply_events), pytest.raises(SettingsError):
        call(events.apply_events)
    assert [(each["log_level"], each["reason"]) for each in lines if each["event"] == "task.refused"] == [
        ("warning", MISSING)
    ]
    with rt.transaction() as connection:
        assert connection.execute(text("SELECT state FROM stripe_event")).scalar_one() == "pending"


def test_a_missing_setting_is_expected_by_celery_and_has_no_traceback(
    rt: Runtime, caplog: pytest.LogCaptureFixture
) -> None:
    put_event(rt)
    with caplog.at_level(logging.INFO, logger="celery.app.trace"):
        assert events.apply_events.apply().state == "FAILURE"
    (ended,) = [record for record in caplog.records if "raised" in record.getMessage()]
    assert "raised expected: StripeNotConfiguredError" in ended.getMessage()
    assert "\n" not in ended.getMessage()
    assert ended.exc_info is None


def test_the_error_is_the_same_in_another_process(rt: Runtime) -> None:
    with pytest.raises(SettingsError) as missing:
        read_stripe_credentials(rt.settings, {})
    wrong = SettingsError(["`redis`: must be a URL (got 1)", "`port`: must be a number (got true)"])
    for error in (missing.value, wrong):
        sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - as billiard sends it to the worker
        by_json = type(error)(*json.loads(json.dumps(ensure_serializable(list(error.args), json.dumps))))
        assert (type(sent), str(sent)) == (type(error), str(error))
        assert str(by_json) == str(error)
    assert str(wrong).splitlines()[0] == "settings can't be used:"
    assert wrong.line == "`redis`: must be a URL (got 1); `port`: must be a number (got true)"


@pytest.mark.parametrize(
    "command", [("check-stripe",), ("drift",), ("invoices", "reconcile"), ("invoices", "reconcile", "--dry-run")]
)
@pytest.mark.usefixtures("rt")
def test_a_command_that_asks_stripe_names_the_missing_setting(
    command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["usage-tasks", *command])
    from usage_tasks.cli import main  # noqa: PLC0415 - after its arguments

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == MISSING


def doctor(environment: dict[str, str]) -> dict[str, str]:
    done = CliRunner(env=environment).invoke(cli, ["doctor", "--json"])
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
    return {f"{each['check']} {each['verdict']}": each["found"] for each in lines}


def test_doctor_names_the_work_that_waits(rt: Runtime, environment: dict[str, str]) -> None:
    found = doctor(environment)
    assert found["stripe fine"] == "not configured: no prices and no key"
    assert found["billing.advance_dunning fine"] == "never; no work: Stripe is not configured"
    put_on_stripe(rt)
    put_event(rt)
    assert doctor(environment)["stripe wrong"] == (
        "not configured (no prices and no key), and work waits for it: "
        f"1 account on stripe, such as {team()}; 1 pending event"
    )
