import pytest

from usage_tasks.domain.customers import HeldSubscription, SubscribedItem, find_obstacle
from usage_tasks.domain.payments import StripeSubscriptionId

OURS = frozenset({"price_a", "price_b"})
A, B = SubscribedItem(price_id="price_a", meter_id="m"), SubscribedItem(price_id="price_b", meter_id="m")
SEAT = SubscribedItem(price_id="seat", meter_id=None)
STORAGE = SubscribedItem(price_id="storage", meter_id="other")
AGAIN = SubscribedItem(price_id="again", meter_id="m")
UNMETERED = SubscribedItem(price_id="price_a", meter_id=None)


def held(*items: SubscribedItem, name: str = "sub_1") -> HeldSubscription:
    return HeldSubscription(subscription_id=StripeSubscriptionId(name), automatic_tax=False, items=items)


@pytest.mark.parametrize("items", [(A,), (A, SEAT), (STORAGE, A), (A, UNMETERED)])
def test_one_metered_item_of_ours_is_billed_by_one_quantity_whatever_else_there_is(
    items: tuple[SubscribedItem, ...],
) -> None:
    assert find_obstacle([held(*items)], OURS) is None


@pytest.mark.parametrize(
    ("items", "count", "named"),
    [
        ((), 0, ""),
        ((SEAT, STORAGE), 0, ""),
        ((UNMETERED,), 0, ""),
        ((AGAIN,), 0, ""),
        ((B, A), 2, ": price_a, price_b"),
        ((A, AGAIN), 2, ": again, price_a"),
    ],
)
def test_any_other_number_of_metered_items_of_ours_is_an_obstacle(
    items: tuple[SubscribedItem, ...], count: int, named: str
) -> None:
    told = f"subscription sub_1 has {count} metered items of ours, one is allowed{named}"
    assert find_obstacle([held(*items)], OURS) == told


def test_two_subscriptions_are_an_obstacle_whatever_they_charge_for() -> None:
    told = "2 subscriptions in Stripe, one is allowed: sub_1, sub_2"
    assert find_obstacle([held(SEAT, name="sub_2"), held(A)], OURS) == told


def test_who_has_no_subscription_has_nothing_to_be_billed() -> None:
    assert find_obstacle([], OURS) is None
