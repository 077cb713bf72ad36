"""A credit note, and its invoice voided, given up or paid after all: the events arrive in every order.

An unpaid invoice counts 0 as invoiced, a paid one the rest after its notes.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection

from tests.factories import DAY, HOUR, SYSTEM
from tests.payments.test_reflect_dispute import handle
from tests.payments.test_reflect_reversals import ACCOUNT, FINALIZED, balance_of, billed, credit, looked_at
from tests.stripe_world.bench import Bench
from usage_tasks.domain.payments import StripeInvoiceId
from usage_tasks.services.operations.verify_ledger import verify
from usage_tasks.services.payments.reflect_invoice import reflect_invoice
from usage_tasks.services.payments.reflect_reversals import reflect_credit_note
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.rows import fetch_one

LATER = FINALIZED + 30 * DAY

Look = Callable[[Connection], Any]


@pytest.mark.holds("stripe.note-then-void")
@pytest.mark.parametrize("backwards", [False, True], ids=["in order", "backwards"])
def test_a_note_on_an_invoice_that_is_then_voided_leaves_nothing_invoiced(bench: Bench, *, backwards: bool) -> None:
    invoice = billed(bench, card="pm_card_chargeCustomerFail")
    credit(bench, invoice, 50)
    bench.world.advance(FINALIZED + HOUR)
    bench.world.v1.invoices.void_invoice(invoice.id)
    handle(bench, "credit_note.", "invoice.voided", backwards=backwards)
    held = balance_of(bench)
    assert (held.used_cents, held.invoiced_cents, held.forgiven_cents, held.carried_cents) == (10_000, 0, 10_000, 0)
    assert bench.verified(LATER).clean


def look_at_note(bench: Bench, note_id: str) -> Look:
    note, invoice = looked_at(bench, note_id)
    ours = bench.world.our_prices
    return partial(reflect_credit_note, note=note, invoice=invoice, our_prices=ours, at=FINALIZED, actor=SYSTEM)


def looks(bench: Bench, fates: Sequence[str]) -> list[Look]:
    """Credit a third of an unpaid invoice and change its state; return a look after each change, to apply later."""
    invoice = billed(bench, card="pm_card_chargeCustomerFail")
    note = credit(bench, invoice, 50)
    seen = [look_at_note(bench, note.id)]
    for hours, fate in enumerate(fates, start=1):
        bench.world.advance(FINALIZED + hours * HOUR)
        match fate:
            case "note voided":
                bench.world.v1.credit_notes.void_credit_note(note.id)
                seen.append(look_at_note(bench, note.id))
                continue
            case "voided":
                bench.world.v1.invoices.void_invoice(invoice.id)
            case "given up":
                bench.world.v1.invoices.mark_uncollectible(invoice.id)
            case _:
                bench.world.v1.invoices.pay(invoice.id, {"paid_out_of_band": True})
        found = bench.stripe.get_invoice(StripeInvoiceId(invoice.id))
        seen.append(partial(reflect_invoice, invoice=found, terms=bench.terms(), at=LATER))
    return seen


def invoiced(connection: Connection) -> int:
    """Return the invoiced cents of the account, and check the balance's identity."""
    held = fetch_one(connection, "SELECT * FROM account_balance WHERE attribution_id = :account", account=ACCOUNT)
    assert held.used_cents == 10_000 == held.invoiced_cents + held.forgiven_cents
    assert (held.covered_cents, held.carried_cents) == (0, 0)
    return int(held.invoiced_cents)


@pytest.mark.holds("stripe.note-then-void")
@pytest.mark.parametrize(
    ("fates", "expected"),
    [
        (["voided"], 0),
        (["given up"], 0),
        (["given up", "voided"], 0),
        (["given up", "paid"], 6667),
        (["note voided", "voided"], 0),
        (["note voided", "given up"], 0),
        (["note voided", "given up", "paid"], 10_000),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, list) else str(value),
)
def test_what_is_told_in_any_order_ends_in_the_same_sums(bench: Bench, fates: list[str], expected: int) -> None:
    seen = looks(bench, fates)
    for order in itertools.permutations(seen):
        with bench.transaction() as connection, rehearsal(connection):
            for told in [*order, *order]:  # twice, and nothing counts twice
                told(connection)
                assert invoiced(connection) >= 0
                assert verify(connection, at=LATER).clean
            assert invoiced(connection) == expected
