from dataclasses import FrozenInstanceError, fields

import pytest

from tests.factories import team
from usage_tasks.domain.announcements import (
    ANNOUNCEMENTS,
    LEVEL_REACHED,
    PREFIX,
    Announcement,
    DunningMessage,
    PaymentActionRequired,
)
from usage_tasks.domain.dunning import DunningAnnouncement
from usage_tasks.domain.limits import Crossing
from usage_tasks.domain.payments import StripeInvoiceId


def test_every_message_has_a_name_of_its_own_that_its_class_spells() -> None:
    assert len(ANNOUNCEMENTS) == 17
    for name, message in ANNOUNCEMENTS.items():
        assert name.startswith(PREFIX)
        assert name.removeprefix(PREFIX).replace("_", "") == message.__name__.lower()


@pytest.mark.parametrize("message", ANNOUNCEMENTS.values(), ids=ANNOUNCEMENTS)
def test_a_message_is_about_one_account_and_its_name_is_no_argument(message: type[Announcement]) -> None:
    names = [each.name for each in fields(message)]
    assert names[0] == "attribution_id"
    assert "name" not in names


def test_a_message_does_not_change() -> None:
    message = PaymentActionRequired(attribution_id=team(), stripe_invoice_id=StripeInvoiceId("in_1"))
    with pytest.raises(FrozenInstanceError):
        message.attribution_id = team("other")  # type: ignore[misc]


def test_each_kind_of_level_has_a_message() -> None:
    assert {crossing: message.name for crossing, message in LEVEL_REACHED.items()} == {
        Crossing.THRESHOLD: "server.usage_threshold_reached",
        Crossing.LIMIT: "server.usage_limit_reached",
        Crossing.HARD_LIMIT: "server.usage_hard_limit_reached",
    }


def test_each_step_of_dunning_has_a_message() -> None:
    messages = {each.name for each in ANNOUNCEMENTS.values() if issubclass(each, DunningMessage)}
    assert messages == {f"{PREFIX}{step}" for step in DunningAnnouncement}
