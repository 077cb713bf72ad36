"""The bars that the database finds are the domain's, for every account of a world of disputes and suspensions."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from tests.factories import START, account_of, make_id, team, user
from tests.rows import insert_rows
from usage_tasks.domain.bars import DisputeBlock, judge_bar
from usage_tasks.domain.disputes import DisputeStatus
from usage_tasks.domain.dunning import DunningState
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.limits.bars import find_bar

# A team and a user of each name share an identifier.
NAMES = ("anna", "bob", "cyd")
ACCOUNTS = [account_of(of(name)) for of in (team, user) for name in NAMES]
DISPUTES = st.builds(
    DisputeBlock,
    attribution_id=st.sampled_from([account.attribution_id for account in ACCOUNTS]),
    status=st.sampled_from(DisputeStatus),
    blocked_user_ids=st.frozensets(st.sampled_from(NAMES).map(make_id), max_size=2),
    blocked_account=st.booleans(),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Disputes, and each account's state of dunning."""

    disputes: Sequence[DisputeBlock]
    dunning: Sequence[DunningState | None]


WORLDS = st.builds(
    World,
    disputes=st.lists(DISPUTES, max_size=3),
    dunning=st.lists(st.sampled_from([None, *DunningState]), min_size=len(ACCOUNTS), max_size=len(ACCOUNTS)),
)


def store(connection: Connection, world: World) -> None:
    disputes = [
        {
            "attribution_id": dispute.attribution_id,
            "stripe_dispute_id": f"dp_{number}",
            "status": dispute.status.value,
            "reason": "fraudulent",
            "amount": 100,
            "currency": "usd",
            "created_at": START,
            "blocked_user_ids": list(dispute.blocked_user_ids),
            "blocked_account": dispute.blocked_account,
        }
        for number, dispute in enumerate(world.disputes)
    ]
    dunning = [
        {"attribution_id": account.attribution_id, "state": state, "failing_since": START, "changed_at": START}
        for account, state in zip(ACCOUNTS, world.dunning, strict=True)
        if state is not None
    ]
    insert_rows(connection, "stripe_dispute", disputes)
    insert_rows(connection, "dunning", dunning)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(world=WORLDS)
def test_the_database_bars_the_accounts_that_the_domain_bars(connection: Connection, world: World) -> None:
    with rehearsal(connection):
        store(connection, world)
        found = [find_bar(connection, account) for account in ACCOUNTS]
    assert found == [
        judge_bar(account, world.disputes, state) for account, state in zip(ACCOUNTS, world.dunning, strict=True)
    ]
