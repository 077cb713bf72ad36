"""Which of Stripe's errors pass, which never do, and which need a look; each message names the cause in words."""

from typing import Any

import pytest

from tests.stripe_gateway.canned import answering, error
from tests.stripe_gateway.test_live import NEW, gateway
from usage_tasks.domain.errors import (
    AccessDeniedError,
    DeclinedError,
    NotFoundError,
    PermanentError,
    RetryableError,
    SpentKeyError,
)
from usage_tasks.domain.payments import StripeSubscriptionId

CASES: list[tuple[int, dict[str, Any], type[Exception]]] = [
    (400, error(kind="idempotency_error"), SpentKeyError),
    (409, error(kind="idempotency_error"), SpentKeyError),
    (409, error(kind="idempotency_error", code="idempotency_key_in_use"), RetryableError),
    (400, error(kind="idempotency_error", code="idempotency_key_in_use"), RetryableError),
    (409, error(code="lock_timeout"), RetryableError),
    (400, error(code="lock_timeout"), RetryableError),
    (400, error(code="rate_limit"), RetryableError),
    (400, error(code="taxes_calculation_failed"), RetryableError),
    (424, error(), RetryableError),
    (429, error(), RetryableError),
    (500, error(kind="api_error"), RetryableError),
    (503, error(), RetryableError),
    (402, error(kind="card_error", code="card_declined"), DeclinedError),
    (404, error(code="resource_missing"), NotFoundError),
    (400, error(code="resource_missing"), NotFoundError),
    (401, error(), AccessDeniedError),
    (403, error(), AccessDeniedError),
    (400, error(code="parameter_unknown"), PermanentError),
    (404, error(), PermanentError),
]


@pytest.mark.parametrize(("status", "body", "expected"), CASES, ids=lambda value: str(value)[:90])
def test_an_error_means_what_its_code_its_type_or_its_status_says(
    status: int, body: dict[str, Any], expected: type[Exception]
) -> None:
    with answering((status, body)) as canned, pytest.raises((PermanentError, RetryableError)) as raised:
        gateway(canned.url).create_customer(NEW, idempotency_key="key")
    assert type(raised.value) is expected
    assert f" {status}" in str(raised.value)
    reason = str(raised.value).partition("req_canned: ")[2]
    assert len(reason.split()) > 2, "a reason in words"


def test_the_message_names_the_code_and_the_field_that_stripe_names() -> None:
    told = error("nobody's business", code="customer_tax_location_invalid")
    told["error"]["param"] = "address[country]"
    with answering((400, told)) as canned, pytest.raises(PermanentError) as refused:
        gateway(canned.url).create_customer(NEW, idempotency_key="key")
    message = str(refused.value)
    assert "code customer_tax_location_invalid, param address[country]" in message
    assert "nobody" not in message


def test_a_key_with_other_arguments_says_so_and_that_a_call_may_still_run() -> None:
    with answering((400, error("", kind="idempotency_error"))) as canned, pytest.raises(SpentKeyError) as refused:
        gateway(canned.url).create_customer(NEW, idempotency_key="key")
    assert "the idempotency key was used before, with other arguments" in str(refused.value)
    assert refused.value.answered is False


@pytest.mark.parametrize("status", [400, 402, 404, 500])
def test_a_repeated_error_is_no_answer_to_this_call(status: int) -> None:
    repeated = {"Idempotent-Replayed": "true"}
    with (
        answering((status, error()), headers=repeated) as canned,
        pytest.raises(SpentKeyError, match="repeated the error") as refused,
    ):
        gateway(canned.url).create_customer(NEW, idempotency_key="key")
    assert refused.value.answered is True


def test_an_error_without_words_is_not_without_a_reason() -> None:
    with answering((400, error(""))) as canned, pytest.raises(PermanentError, match="Stripe gave no reason"):
        gateway(canned.url).get_subscription(StripeSubscriptionId("sub_1"))
