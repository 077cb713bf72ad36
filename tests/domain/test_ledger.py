from datetime import timedelta
from itertools import permutations
from uuid import UUID

import pytest

from tests.factories import START
from usage_tasks.domain.ledger import (
    CONTRA_BY_KIND,
    SETTLING_KINDS,
    USAGE_KINDS,
    Contra,
    EntryKind,
    KeyPrefix,
    burn_key,
    credit_note_keys,
    credit_note_offset_keys,
    credit_note_prefix,
    invoice_key,
    kinds_of,
    note_key,
    reset_key,
    reversal_keys,
    session_key,
    upgrade_key,
    write_off_key,
)


def test_every_kind_has_one_other_side() -> None:
    by_contra = [kind for contra in Contra for kind in kinds_of(contra)]
    assert sorted(by_contra) == sorted(EntryKind)
    assert all(CONTRA_BY_KIND[kind] is contra for contra in Contra for kind in kinds_of(contra))


@pytest.mark.parametrize(
    ("contra", "kinds"),
    [
        (Contra.USED, {EntryKind.SESSION, EntryKind.ADJUSTMENT}),
        (Contra.INVOICED, {EntryKind.INVOICE, EntryKind.INVOICE_REVERSAL}),
        (Contra.COVERED, {EntryKind.RESET, EntryKind.GRANT_BURN}),
        (Contra.FORGIVEN, {EntryKind.UPGRADE, EntryKind.CREDIT_NOTE, EntryKind.WRITE_OFF}),
    ],
)
def test_an_account_used_what_was_invoiced_covered_forgiven_and_carried(contra: Contra, kinds: set[EntryKind]) -> None:
    assert set(kinds_of(contra)) == kinds


def test_only_sessions_and_their_adjustments_are_usage() -> None:
    assert set(USAGE_KINDS) == {EntryKind.SESSION, EntryKind.ADJUSTMENT}


def test_a_note_and_a_reversal_are_booked_whatever_is_open_and_settle_nothing() -> None:
    others = {EntryKind.CREDIT_NOTE, EntryKind.INVOICE_REVERSAL, EntryKind.WRITE_OFF}
    assert set(SETTLING_KINDS) == set(EntryKind) - set(USAGE_KINDS) - others


def test_an_effect_has_the_same_key_each_time_and_no_other_effect_has_it() -> None:
    later = START + timedelta(microseconds=1)
    session = UUID(int=7)
    keys = [
        session_key(session, 1),
        session_key(session, 2),
        invoice_key("in_1"),
        invoice_key("in_2"),
        reset_key(START),
        reset_key(later),
        upgrade_key(2),
        upgrade_key(3),
        note_key("in_1"),
        note_key("2"),
        burn_key(1, START),
        burn_key(1, later),
        burn_key(2, START),
    ]
    assert keys == [
        "session:00000000-0000-0000-0000-000000000007:1",
        "session:00000000-0000-0000-0000-000000000007:2",
        "invoice:in_1",
        "invoice:in_2",
        "reset:2026-01-01T00:00:00+00:00",
        "reset:2026-01-01T00:00:00.000001+00:00",
        "upgrade:2",
        "upgrade:3",
        "note:in_1",
        "note:2",
        "grant:1:2026-01-01T00:00:00+00:00",
        "grant:1:2026-01-01T00:00:00.000001+00:00",
        "grant:2:2026-01-01T00:00:00+00:00",
    ]
    assert len({*keys}) == len(keys)


def test_an_invoice_that_is_reversed_is_written_off_for_the_same_reason() -> None:
    assert reversal_keys("void", "in_1") == ("invoice-void:in_1", "write-off-void:in_1")
    assert reversal_keys("void", "in_1")[1] == write_off_key("void", "in_1")


def test_the_keys_of_a_note_and_of_its_voiding_stand_below_the_invoices() -> None:
    stem = "invoice:in_1:credit_note:"
    assert credit_note_prefix("in_1") == stem
    assert credit_note_keys("in_1", "cn_1") == (f"{stem}cn_1:invoiced", f"{stem}cn_1:forgiven")
    assert credit_note_keys("in_1", "cn_1", voided=True) == (f"{stem}cn_1:void:invoiced", f"{stem}cn_1:void:forgiven")


def test_the_keys_that_take_off_a_reversal_name_invoice_note_and_whether_it_is_void() -> None:
    assert credit_note_offset_keys("in_1", "cn_1") == ("invoice-credited:in_1:cn_1", "write-off-credited:in_1:cn_1")
    voided = ("invoice-credited:in_1:cn_1:void", "write-off-credited:in_1:cn_1:void")
    assert credit_note_offset_keys("in_1", "cn_1", voided=True) == voided


def test_no_prefix_of_keys_begins_another() -> None:
    assert not [(one, other) for one, other in permutations(KeyPrefix, 2) if other.startswith(one)]
