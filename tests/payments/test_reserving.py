"""A row before the call: the result of reserving if the account is not in the caller's expected state."""

import pytest
from sqlalchemy import Connection

from tests.factories import START, team
from usage_tasks.domain.errors import InvariantError, NotFoundError
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.storage.payments.customers import CustomerRow, reserve_customer_again
from usage_tasks.storage.payments.holds import reserve_hold

ACCOUNT = team("unknown to Stripe")


def test_an_account_without_a_customer_gets_no_hold(connection: Connection) -> None:
    with pytest.raises(NotFoundError, match=f"{ACCOUNT} has no customer in Stripe"):
        reserve_hold(connection, ACCOUNT, release_at=START)


def test_a_customer_that_was_never_stored_is_not_replaced(connection: Connection) -> None:
    gone = CustomerRow(
        attribution_id=ACCOUNT, customer_id=StripeCustomerId("cus_1"), currency="usd", idempotency_key="k", deleted=True
    )
    with pytest.raises(InvariantError, match=f"{ACCOUNT} was to be replaced and has no row"):
        reserve_customer_again(connection, gone, currency="usd", creator="creator")
