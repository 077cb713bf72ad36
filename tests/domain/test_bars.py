from dataclasses import replace

import pytest

from tests.factories import account_of, make_id, team, user
from usage_tasks.domain.bars import DisputeBlock, judge_bar
from usage_tasks.domain.disputes import DisputeStatus
from usage_tasks.domain.dunning import DunningState
from usage_tasks.domain.limits import EntitlementReason

BLOCKED, SUSPENDED = EntitlementReason.BLOCKED, EntitlementReason.SUSPENDED
TEAM, ANNA = account_of(team()), account_of(user("anna"))
DISPUTE = DisputeBlock(
    attribution_id=team(), status=DisputeStatus.NEEDS_RESPONSE, blocked_user_ids=frozenset(), blocked_account=False
)
OF_ACCOUNT = replace(DISPUTE, blocked_account=True)
OF_ANNA = replace(DISPUTE, blocked_user_ids=frozenset({make_id("anna"), make_id("bob")}))


def test_an_account_without_disputes_and_dunning_is_not_barred() -> None:
    assert judge_bar(TEAM, [], None) is None
    assert judge_bar(ANNA, [DISPUTE], None) is None


@pytest.mark.parametrize("status", DisputeStatus)
def test_a_dispute_bars_until_it_is_settled(status: DisputeStatus) -> None:
    stands = {"warning_needs_response", "warning_under_review", "needs_response", "under_review"}
    assert judge_bar(TEAM, [replace(OF_ACCOUNT, status=status)], None) is (BLOCKED if status in stands else None)


def test_a_dispute_that_blocks_an_account_bars_no_other_one() -> None:
    assert judge_bar(account_of(team("another")), [OF_ACCOUNT], None) is None
    assert judge_bar(TEAM, [DISPUTE], None) is None


def test_a_blocked_user_is_barred_from_their_own_account_only() -> None:
    assert judge_bar(ANNA, [OF_ANNA], None) is BLOCKED
    assert judge_bar(account_of(user("cyd")), [OF_ANNA], None) is None
    # A team with the identifier of a user is no user.
    assert judge_bar(account_of(team("anna")), [OF_ANNA], None) is None


def test_any_of_several_disputes_bars() -> None:
    assert judge_bar(ANNA, [DISPUTE, replace(OF_ANNA, status=DisputeStatus.WON), OF_ANNA], None) is BLOCKED


@pytest.mark.parametrize(
    ("state", "bar"), [(DunningState.GRACE, None), (DunningState.REMINDER, None), (DunningState.SUSPENDED, SUSPENDED)]
)
def test_of_the_states_of_dunning_suspension_bars(state: DunningState, bar: EntitlementReason | None) -> None:
    assert judge_bar(TEAM, [DISPUTE], state) is bar


def test_a_block_comes_before_a_suspension() -> None:
    assert judge_bar(TEAM, [OF_ACCOUNT], DunningState.SUSPENDED) is BLOCKED
