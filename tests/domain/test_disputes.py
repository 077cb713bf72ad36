import pytest

from usage_tasks.domain.disputes import DisputeStatus, blocks, follow, parse_status
from usage_tasks.domain.errors import PermanentError

OPEN = {"warning_needs_response", "warning_under_review", "needs_response", "under_review"}
LET_GO = {"warning_closed", "prevented", "won"}


def test_a_dispute_blocks_until_it_comes_to_nothing_and_for_good_where_it_is_lost() -> None:
    assert {status.value for status in DisputeStatus if blocks(status)} == OPEN | {"lost"}
    assert {status.value for status in DisputeStatus} == OPEN | {"lost"} | LET_GO


@pytest.mark.parametrize("told", DisputeStatus)
def test_what_is_settled_stays_and_anything_else_goes_on(told: DisputeStatus) -> None:
    assert follow(None, told) is told
    for known in DisputeStatus:
        assert follow(known, told) is (told if known.value in OPEN else known)


def test_a_status_that_nobody_has_thought_about_is_an_error() -> None:
    assert parse_status("won") is DisputeStatus.WON
    with pytest.raises(PermanentError) as error:
        parse_status("mediation")
    assert str(error.value).startswith("dispute: `status`: must be one of warning_needs_response, ")
    assert str(error.value).endswith("(got 'mediation')")
