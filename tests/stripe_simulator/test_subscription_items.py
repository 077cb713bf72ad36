import pytest
import stripe

from tests.stripe_simulator.conftest import FIRST_END, Account

HOUR = 3600


def test_an_item_is_added_shares_the_period_of_the_others_and_is_billed(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    changed = account.v1.subscriptions.update(
        subscription.id, {"items": [{"price": account.flat_price(900).id, "quantity": 2}], "proration_behavior": "none"}
    )
    first, second = changed["items"].data
    assert second.quantity == 2
    assert second.current_period_end == first.current_period_end == FIRST_END
    account.advance(FIRST_END + HOUR)
    latest = account.v1.invoices.list({"subscription": subscription.id}).data[0]
    assert [line.amount for line in latest.lines.data] == [0, 1800]


def test_an_item_is_taken_away_but_not_the_last_one(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    (only,) = subscription["items"].data
    added = {"items": [{"price": account.metered_price(formula="sum").id}]}
    account.v1.subscriptions.update(subscription.id, added)
    removed = {"items": [{"id": only.id, "deleted": True}]}
    (left,) = account.v1.subscriptions.update(subscription.id, removed)["items"].data
    assert left.id != only.id
    with pytest.raises(stripe.InvalidRequestError, match="at least one item"):
        account.v1.subscriptions.update(subscription.id, {"items": [{"id": left.id, "deleted": True}]})


def test_what_is_not_simulated_is_refused(account: Account) -> None:
    subscription = account.subscribe(account.metered_price())
    (only,) = subscription["items"].data
    with pytest.raises(stripe.InvalidRequestError, match="Prorations"):
        account.v1.subscriptions.update(subscription.id, {"items": [{"price": account.flat_price(900).id}]})
    with pytest.raises(stripe.InvalidRequestError, match="only its end"):
        account.v1.subscriptions.update(subscription.id, {"items": [{"id": only.id, "quantity": 2}]})
    with pytest.raises(stripe.InvalidRequestError, match="Missing required param"):
        account.v1.subscriptions.update(subscription.id, {"items": [{"quantity": 2}]})
