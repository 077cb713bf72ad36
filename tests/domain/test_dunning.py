from dataclasses import replace
from datetime import timedelta

import pytest

from tests.factories import DAY, START
from usage_tasks.domain.dunning import (
    Dunning,
    DunningAnnouncement,
    DunningPolicy,
    DunningState,
    HeldDunning,
    InvoicePayment,
    advance_account,
    failing_since,
    judge_failing,
)
from usage_tasks.domain.payments import InvoiceStatus

TICK = timedelta(microseconds=1)
POLICY = DunningPolicy(grace=3 * DAY, reminder_every=7 * DAY, suspend_after=20 * DAY)
GRACE, REMINDER, SUSPENDED = DunningState
FAILED, REMINDED, SUSPEND, RESUME, SETTLED = DunningAnnouncement


def place(state: DunningState, reminders: int = 0, *, since: timedelta = timedelta(0)) -> Dunning:
    return Dunning(state=state, failing_since=START + since, reminders=reminders)


def held(state: DunningState, reminders: int = 0, *, since: timedelta = timedelta(0), changed: int = 0) -> HeldDunning:
    return HeldDunning(dunning=place(state, reminders, since=since), changed_at=START + changed * DAY)


@pytest.mark.parametrize(
    ("status", "fails"),
    [
        (InvoiceStatus.DRAFT, False),
        (InvoiceStatus.OPEN, True),
        (InvoiceStatus.UNCOLLECTIBLE, True),
        (InvoiceStatus.PAID, False),
        (InvoiceStatus.VOID, False),
    ],
)
def test_an_account_fails_while_an_invoice_that_failed_is_unpaid(status: InvoiceStatus, fails: bool) -> None:  # noqa: FBT001
    assert failing_since([InvoicePayment(status=status, failed_at=START)]) == (START if fails else None)


def test_an_account_fails_since_the_earliest_failure_that_counts() -> None:
    payments = [
        InvoicePayment(status=InvoiceStatus.OPEN, failed_at=None),
        InvoicePayment(status=InvoiceStatus.OPEN, failed_at=START + 2 * DAY),
        InvoicePayment(status=InvoiceStatus.UNCOLLECTIBLE, failed_at=START + DAY),
        InvoicePayment(status=InvoiceStatus.PAID, failed_at=START),
    ]
    assert failing_since(payments) == START + DAY
    assert failing_since(payments[:1]) is None
    assert failing_since([]) is None


@pytest.mark.parametrize(
    ("after", "state", "reminders"),
    [
        (-DAY, GRACE, 0),
        (timedelta(0), GRACE, 0),
        (3 * DAY - TICK, GRACE, 0),
        (3 * DAY, REMINDER, 1),
        (10 * DAY - TICK, REMINDER, 1),
        (10 * DAY, REMINDER, 2),
        (17 * DAY, REMINDER, 3),
        (20 * DAY - TICK, REMINDER, 3),
        (20 * DAY, SUSPENDED, 3),
        (99 * DAY, SUSPENDED, 3),
    ],
)
def test_the_place_follows_from_the_time_since_the_failure(
    after: timedelta, state: DunningState, reminders: int
) -> None:
    assert judge_failing(START, at=START + after, policy=POLICY) == place(state, reminders)


def test_the_reminder_that_falls_on_the_suspension_is_the_last_one() -> None:
    policy = replace(POLICY, suspend_after=17 * DAY)
    assert judge_failing(START, at=START + 30 * DAY, policy=policy) == place(SUSPENDED, 3)
    assert judge_failing(
        START, at=START, policy=DunningPolicy(grace=0 * DAY, reminder_every=DAY, suspend_after=0 * DAY)
    ) == place(SUSPENDED, 1)


# Days after the failure; the stored place; the new place and its announcement.
STEPS = [
    (0, None, place(GRACE), FAILED),
    (3, None, place(REMINDER, 1), REMINDED),
    (20, None, place(SUSPENDED, 3), SUSPEND),
    (3, held(GRACE), place(REMINDER, 1), REMINDED),
    (17, held(REMINDER, 1), place(REMINDER, 3), REMINDED),
    (3, held(REMINDER, 2), place(REMINDER, 1), None),
    (3, held(REMINDER, 1, since=-DAY), place(REMINDER, 1), None),
    (0, held(REMINDER, 1, since=-4 * DAY), place(GRACE), None),
    (0, held(GRACE, since=-DAY), place(GRACE), None),
    (20, held(REMINDER, 3), place(SUSPENDED, 3), SUSPEND),
    (20, held(GRACE), place(SUSPENDED, 3), SUSPEND),
    (20, held(SUSPENDED, 3, since=-DAY), place(SUSPENDED, 3), None),
    (3, held(SUSPENDED, 0, since=-30 * DAY), place(REMINDER, 1), RESUME),
    (0, held(SUSPENDED, 3, since=-30 * DAY), place(GRACE), RESUME),
]


@pytest.mark.parametrize(("days", "stored", "now", "announced"), STEPS)
def test_a_step_is_announced_by_the_places_that_it_leads_from_and_to(
    days: int, stored: HeldDunning | None, now: Dunning, announced: DunningAnnouncement | None
) -> None:
    step = advance_account(stored, START, at=START + days * DAY, policy=POLICY)
    assert step is not None
    assert (step.former, step.now) == (stored and stored.dunning, now)
    assert step.announced is announced


@pytest.mark.parametrize(
    ("stored", "announced"),
    [(held(GRACE), SETTLED), (held(REMINDER, 2), SETTLED), (held(SUSPENDED, 3, changed=99), RESUME)],
)
@pytest.mark.parametrize("policy", [POLICY, None])
def test_the_course_ends_at_once_without_a_failure_or_a_policy(
    stored: HeldDunning, announced: DunningAnnouncement, policy: DunningPolicy | None
) -> None:
    step = advance_account(stored, None if policy else START, at=START, policy=policy)
    assert step is not None
    assert (step.former, step.now, step.announced) == (stored.dunning, None, announced)


@pytest.mark.parametrize("policy", [POLICY, None])
def test_an_account_that_pays_takes_no_step(policy: DunningPolicy | None) -> None:
    assert advance_account(None, None, at=START, policy=policy) is None
    assert advance_account(None, START, at=START, policy=None) is None


def test_a_place_that_stays_is_no_step() -> None:
    assert advance_account(held(REMINDER, 1), START, at=START + 4 * DAY, policy=POLICY) is None


def test_a_place_moves_at_the_instant_of_its_last_step_and_not_before_it() -> None:
    stored = held(SUSPENDED, 3, changed=4)
    step = advance_account(stored, START, at=START + 4 * DAY, policy=POLICY)
    assert step is not None
    assert step.now == place(REMINDER, 1)
    assert advance_account(stored, START, at=START + 4 * DAY - TICK, policy=POLICY) is None
