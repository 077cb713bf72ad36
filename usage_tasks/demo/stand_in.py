"""The demo's side of Stripe's stand-in: its price list, its clock, its invoices. Plain HTTP, beside the system."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import requests

SECRET_KEY: Final = "sk_test_demo_not_a_secret"  # noqa: S105 - a stand-in's
WEBHOOK_SECRET: Final = "whsec_demo_not_a_secret"  # noqa: S105 - a stand-in's
METER_EVENT_NAME: Final = "usage_credits"
_TIMEOUT_SECONDS: Final = 60
_POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class StandInInvoice:
    """A finalized invoice as the stand-in has it: credits are the sum of its metered lines' quantities."""

    invoice_id: str
    customer_id: str
    status: str
    credits: int


class StandIn:
    """Speaks to the stand-in at a URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {SECRET_KEY}"

    def make_prices(self) -> dict[str, dict[str, str]]:
        """Make the meter and a metered price for teams and individuals in each currency; return their ids."""
        meter = self._post(
            "/v1/billing/meters",
            {
                "display_name": "Credits",
                "event_name": METER_EVENT_NAME,
                "default_aggregation[formula]": "last",
            },
        )
        return {
            kind: {currency: self._make_price(meter["id"], kind, currency) for currency in ("eur", "usd")}
            for kind in ("team", "individual")
        }

    def _make_price(self, meter: str, kind: str, currency: str) -> str:
        product = self._post("/v1/products", {"name": f"Usage of a {kind}"})
        price = self._post(
            "/v1/prices",
            {
                "product": product["id"],
                "currency": currency,
                "unit_amount": "4" if kind == "individual" else "3",
                "recurring[interval]": "month",
                "recurring[usage_type]": "metered",
                "recurring[meter]": meter,
            },
        )
        return str(price["id"])

    def advance(self, to: datetime) -> None:
        """Advance the stand-in's clock: drafts, finalizes and pays what falls due on the way."""
        answer = self._session.post(
            f"{self.url}/_simulator/clock", json={"advance_to": int(to.timestamp())}, timeout=_TIMEOUT_SECONDS
        )
        answer.raise_for_status()

    def await_deliveries(self, *, seconds_max: float = 60) -> int:
        """Wait until the receiver has taken every webhook; return their number."""
        give_up_at = time.monotonic() + seconds_max
        while True:
            state = self._get("/_simulator/deliveries", {})
            if not state["pending"]:
                return int(state["delivered"])
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"{state['pending']} webhooks were not taken: {state['last_error']}")
            time.sleep(_POLL_SECONDS)

    def finalized_invoices(self) -> list[StandInInvoice]:
        """List every invoice that is finalized, with the credits that it bills."""
        return [
            StandInInvoice(
                invoice_id=invoice["id"],
                customer_id=invoice["customer"],
                status=invoice["status"],
                credits=sum(int(line["quantity"] or 0) for line in self._all(f"/v1/invoices/{invoice['id']}/lines")),
            )
            for invoice in self._all("/v1/invoices")
            if invoice["status"] != "draft"
        ]

    def _all(self, path: str) -> Iterator[Mapping[str, Any]]:
        parameters = {"limit": "100"}
        while True:
            page = self._get(path, parameters)
            yield from page["data"]
            if not page["has_more"]:
                return
            parameters["starting_after"] = page["data"][-1]["id"]

    def _get(self, path: str, parameters: Mapping[str, str]) -> Any:
        answer = self._session.get(self.url + path, params=parameters, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return answer.json()

    def _post(self, path: str, form: Mapping[str, str]) -> Any:
        answer = self._session.post(self.url + path, data=form, timeout=_TIMEOUT_SECONDS)
        answer.raise_for_status()
        return answer.json()
