"""The live client's lists of payments, refunds and disputes: one page each, with the fields that decide on a fetch."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

import stripe

from usage_tasks.domain.payments import StripeCustomerId
from usage_tasks.domain.stripe_objects import ListedObject, ObjectPage
from usage_tasks.stripe_gateway.fields import Fields

Result = TypeVar("Result")


class ListCalls:
    """See PaymentGateway for what each call promises."""

    def _call(self, operation: str, call: Callable[[stripe.StripeClient], Result]) -> Result:
        raise NotImplementedError

    def list_disputes(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        asked = _asked(created_from, after, limit, expand=["data.payment_intent"])
        return _read_page(self._call("disputes.list", lambda client: client.v1.disputes.list(asked)), "dispute")

    def list_refunds(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        asked = _asked(created_from, after, limit, expand=["data.payment_intent"])
        return _read_page(self._call("refunds.list", lambda client: client.v1.refunds.list(asked)), "refund")

    def list_credit_notes(self, *, created_from: datetime, after: str | None, limit: int) -> ObjectPage:
        asked = _asked(created_from, after, limit)
        return _read_page(
            self._call("credit_notes.list", lambda client: client.v1.credit_notes.list(asked)), "credit_note"
        )


def _asked(created_from: datetime, after: str | None, limit: int, *, expand: Sequence[str] = ()) -> Any:
    asked: dict[str, object] = {"created": {"gte": int(created_from.timestamp())}, "limit": limit}
    asked |= {"expand": list(expand)} if expand else {}
    return asked | ({} if after is None else {"starting_after": after})


def _read_page(found: stripe.StripeObject, kind: str) -> ObjectPage:
    page = Fields(found, "list")
    objects = [_read(each) for each in page.objects("data", kind)]
    return ObjectPage(objects=objects, cursor=objects[-1].object_id if page.flag("has_more") and objects else None)


def _read(found: Fields) -> ListedObject:
    """Read an object, whose customer it names itself or by its payment."""
    payment = found.find("payment_intent")
    payer = found.find_reference("customer")
    if payer is None and isinstance(payment, dict):
        payer = Fields(payment, "payment_intent").find_reference("customer")
    return ListedObject(
        object_id=found.text("id"),
        customer_id=None if payer is None else StripeCustomerId(payer),
        status=found.find_text("status") or "",
        created_at=found.moment("created"),
    )
