"""The table of docs/stripe-events.md, the handlers, and the promised types: three equal lists."""

import re
from pathlib import Path

from usage_tasks.services.inbox.handlers import HANDLERS

TABLE = Path(__file__).parents[2] / "docs" / "stripe-events.md"
PROMISED = {
    "invoice": "created finalized finalization_failed paid payment_failed payment_action_required voided "
    "marked_uncollectible",
    "customer": "created updated deleted",
    "customer.subscription": "created updated deleted paused resumed",
    "charge.dispute": "created updated closed funds_withdrawn funds_reinstated",
    "refund": "created updated failed",
    "credit_note": "created voided",
    "billing.alert": "triggered",
    "v1.billing.meter": "error_report_triggered no_meter_found",
}


def documented() -> set[str]:
    """The types of the table; `.updated` after a full name stands for another event of the same object."""
    types: set[str] = set()
    for row in re.findall(r"(?m)^\| (`[^|]+) \|", TABLE.read_text()):
        first, *others = re.findall(r"`([^`]+)`", row)
        stem = first.rpartition(".")[0]
        types |= {first, *(f"{stem}{name}" if name.startswith(".") else name for name in others)}
    return types


def test_every_event_that_was_promised_has_a_handler_and_a_row() -> None:
    promised = {f"{stem}.{what}" for stem, whats in PROMISED.items() for what in whats.split()}
    assert set(HANDLERS) == promised
    assert documented() == promised
