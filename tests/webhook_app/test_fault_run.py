import json

import pytest

from tests.server_directory import server_directory
from tests.webhook_app.fault_run import FAULTS, run


@pytest.mark.timeout(120)
def test_what_is_killed_behind_the_receiver_loses_nothing_and_doubles_nothing() -> None:
    with server_directory() as directory:
        outcome = run(300, 100, 3, directory, say=lambda _: None)
    assert outcome.faults == [what for _, what in FAULTS]
    assert (outcome.in_inbox, outcome.applied) == (300, 300), outcome
    assert outcome.invoice_entries == outcome.invoices == 3
    assert outcome.whole, json.dumps(outcome.answers)
