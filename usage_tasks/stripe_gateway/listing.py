"""The live client's lists of what happened to payers' money: one page each, as much as says what is to be fetched."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import stripe

from usage_tasks.domain.errors import PermanentError
from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.domain.stripe_objects import ListedObject, ObjectPage
from usage_tasks.stripe_gateway.reading import id_of, moment

Result = TypeVar("Result")


class ListCalls:
    """See PaymentGateway for what each call promises."""

    def _call(self, operation: str, call: Callable[[stripe.StripeClient], Result]) -> Result:
        raise NotImplementedError

    def list_disputes(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        asked = _asked(created_from, after, limit, expand=["data.payment_intent"])
        return _read_page(self._call("disputes.list", lambda client: client.v1.disputes.list(asked)))

    def list_refunds(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        asked = _asked(created_from, after, limit, expand=["data.payment_intent"])
        return _read_page(self._call("refunds.list", lambda client: client.v1.refunds.list(asked)))

    def list_credit_notes(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        asked = _asked(created_from, after, limit)
        return _read_page(self._call("credit_notes.list", lambda client: client.v1.credit_notes.list(asked)))


def _asked(created_from: datetime, after: str | None, limit: int, *, expand: Sequence[str] = ()) -> Any:
    asked: dict[str, object] = {"created": {"gte": int(created_from.timestamp())}, "limit": limit}
    asked |= {"expand": list(expand)} if expand else {}
    return asked | ({} if after is None else {"starting_after": after})


def _read_page(page: Any) -> ObjectPage:
    try:
        objects = [_read(each) for each in page.data]
    except (AttributeError, TypeError, ValueError) as error:
        raise PermanentError(f"stripe: a list: {type(error).__name__}: {error}") from error
    return ObjectPage(objects=objects, cursor=objects[-1].object_id if page.has_more and objects else None)


def _read(found: Any) -> ListedObject:
    """Read an object, whose customer it names itself or by its payment."""
    payer = getattr(found, "customer", None) or getattr(getattr(found, "payment_intent", None), "customer", None)
    return ListedObject(
        object_id=id_of(found),
        customer_id=None if payer is None else StripeCustomerId(id_of(payer)),
        status=found.status or "",
        created_at=moment(found.created),
    )
