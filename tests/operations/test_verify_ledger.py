import pytest
from sqlalchemy import Connection, text

from tests.factories import DAY, HOUR, START, give, record, see, segment, session_report, stopped_report, team, used
from tests.ledger.test_cost_center import OTHER, STRIPE, get, put
from usage_tasks.domain.cycles import add_months
from usage_tasks.services.ledger.post_usage import post_batch
from usage_tasks.services.ledger.reset import reset_due, settle_expired
from usage_tasks.services.operations.verify_ledger import verify

NOW = add_months(START, 3)
REOPENED = """
    INSERT INTO open_session (attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, opened_at)
    SELECT attribution_id, instance_id, workspace_class, started_at, ended_at, final_at, '2020-01-01Z'
    FROM workspace_instance WHERE final_at IS NOT NULL
"""
REST = "kind, credit_cents, effective_at, posted_at, description, instance_id FROM ledger_entry"
TWICE = (
    "INSERT INTO ledger_entry (attribution_id, key, kind, credit_cents, effective_at, posted_at, description, "
    "instance_id) SELECT"
)
CLAIMED = "INSERT INTO allowance_claim SELECT gen_random_uuid(), NULL, {account}, {at}, now(), 'service:x'"


def told(timeline: str) -> str:
    """Damage done to the timelines that there are."""
    return f"UPDATE workspace_instance SET timeline = {timeline} WHERE timeline IS NOT NULL"  # noqa: S608 - ours


def put_in(place: str, value: str) -> str:
    return told(f"jsonb_set(timeline, '{{{place}}}', '\"{value}\"')")


DAMAGES = [
    ("allowances_have_accounts", CLAIMED.format(account="'team:x'", at="now()")),
    ("timelines_are_joined", told("'[]'")),
    ("timelines_are_joined", told("timeline || timeline")),
    ("timelines_are_joined", put_in("0,state", "asleep")),
    ("timelines_are_joined", put_in("0,observed_at", "2026-02-01T00:00:00.000000Z")),
    ("timelines_are_joined", put_in("0,from", "2026-01-01T01:00:00Z")),
    ("timelines_are_joined", put_in("0,from", "2026-02-30T01:00:00.000000Z")),
    ("timelines_are_joined", put_in("0,observed_at", "0000-01-01T01:00:00.000000Z")),
    ("timelines_are_joined", told("'[1]'")),
    ("timelines_are_joined", told("jsonb_build_array(timeline -> 1, timeline -> 0)")),
    ("timelines_are_joined", put_in("0,workspace_class", "unheard of")),
    ("prices_match_timelines", put_in("0,from", "2026-02-30T01:00:00.000000Z")),
    ("prices_match_timelines", told("timeline - 1")),
    ("prices_match_timelines", put_in("1,workspace_class", "medium")),
    ("prices_match_facts", put_in("1,from", "2026-01-01T02:00:05.000000Z")),
    ("prices_match_timelines", "UPDATE price_version SET credits_per_minute = 2 WHERE workspace_class = 'xlarge'"),
    ("open_sessions_match_facts", "UPDATE open_session SET timeline = NULL WHERE timeline IS NOT NULL"),
    (
        "allowances_have_accounts",
        CLAIMED.format(account="attribution_id", at="now()")
        + " FROM cost_center WHERE attribution_id LIKE 'team:%' LIMIT 1",
    ),
    ("balances_equal_entries", "UPDATE account_balance SET used_cents = used_cents + 1"),
    ("balances_equal_entries", "UPDATE account_balance SET covered_cents = 0, used_cents = used_cents - 700"),
    ("balances_equal_entries", "DELETE FROM account_balance"),
    ("balances_equal_entries", "UPDATE account_balance SET latest_effective_at = latest_effective_at - interval '1 s'"),
    ("balances_equal_entries", "UPDATE ledger_entry SET credit_cents = credit_cents - 1 WHERE kind = 'upgrade'"),
    ("weeks_match_entries", "UPDATE account_week SET credit_cents = credit_cents + 1"),
    ("weeks_match_entries", "DELETE FROM account_week"),
    ("weeks_match_entries", "UPDATE account_week SET starts_at = starts_at + interval '7 days'"),
    ("weeks_match_entries", "UPDATE account_week SET reaches_back_to = reaches_back_to + interval '1 s'"),
    ("weeks_match_entries", "UPDATE account_week SET reaches_back_to = NULL"),
    ("stopped_sessions_are_posted", REOPENED),
    ("prices_match_facts", "DELETE FROM ledger_entry WHERE kind = 'adjustment'"),
    ("entries_match_sessions", "DELETE FROM workspace_instance"),
    ("prices_match_facts", "UPDATE ledger_entry SET credit_cents = credit_cents + 1 WHERE kind = 'session'"),
    ("entries_match_sessions", "UPDATE ledger_entry SET key = key || '0' WHERE kind = 'adjustment'"),
    ("entries_match_sessions", "UPDATE ledger_entry SET attribution_id = 'team:x' WHERE kind = 'adjustment'"),
    ("entries_match_sessions", "UPDATE open_session SET posted_cents = posted_cents + 1"),
    ("entries_match_sessions", "UPDATE open_session SET settled_at = now(), revision = 2"),
    ("entries_match_sessions", "DELETE FROM open_session"),
    ("entries_match_sessions", "DELETE FROM ledger_entry WHERE kind = 'session'"),
    ("open_sessions_match_facts", "UPDATE open_session SET started_at = started_at - interval '1 s'"),
    ("open_sessions_match_facts", "UPDATE open_session SET ended_at = started_at"),
    ("open_sessions_match_facts", "UPDATE open_session SET instance_id = gen_random_uuid()"),
    ("prices_match_facts", "UPDATE workspace_instance SET stopped_at = stopped_at + interval '1 hour'"),
    ("prices_match_facts", "UPDATE workspace_instance SET workspace_class = 'gold'"),
    ("prices_match_facts", "UPDATE price_version SET credits_per_minute = 2 WHERE workspace_class = 'xlarge'"),
    ("cost_center_versions_have_no_gaps", "UPDATE cost_center SET version = 9 WHERE version = 2"),
    ("cost_center_versions_have_no_gaps", "UPDATE cost_center SET superseded_at = now()"),
    ("cost_center_versions_have_no_gaps", "DELETE FROM cost_center WHERE version = 1"),
    ("resets_stay_within_limits", "UPDATE ledger_entry SET credit_cents = -701 WHERE kind = 'reset'"),
    ("resets_stay_within_limits", "UPDATE ledger_entry SET credit_cents = 1 WHERE kind = 'reset'"),
    ("balances_equal_entries", "UPDATE ledger_entry SET kind = 'gift' WHERE kind = 'upgrade'"),
    ("balances_equal_entries", "DELETE FROM ledger_entry WHERE kind = 'reset'"),
    ("entries_match_sessions", "UPDATE ledger_entry SET key = key || 'x' WHERE kind = 'session'"),
    ("entries_match_sessions", "UPDATE ledger_entry SET key = key || '9999999999' WHERE kind = 'session'"),
    (
        "entries_match_sessions",
        "UPDATE ledger_entry SET key = regexp_replace(key, '2$', '02') WHERE kind = 'adjustment'",
    ),
    ("entries_match_sessions", f"{TWICE} attribution_id, key || '1', {REST} WHERE kind = 'session'"),
    ("entries_match_sessions", f"{TWICE} 'team:x', key, {REST} WHERE kind = 'session'"),
    ("entries_carry_their_keys", "UPDATE ledger_entry SET key = '' WHERE kind = 'adjustment'"),
    ("entries_carry_their_keys", "UPDATE ledger_entry SET key = '' WHERE kind = 'upgrade'"),
    ("entries_carry_their_keys", "UPDATE ledger_entry SET key = 'upgrade:77' WHERE kind = 'upgrade'"),
    (
        "entries_carry_their_keys",
        "UPDATE ledger_entry SET key = 'session:' || gen_random_uuid() || ':' || 1 WHERE kind = 'session'",
    ),
    ("entries_carry_their_keys", "UPDATE ledger_entry SET kind = 'adjustment' WHERE kind = 'session'"),
    ("entries_carry_their_keys", "UPDATE ledger_entry SET kind = 'session' WHERE kind = 'adjustment'"),
    ("entries_carry_their_keys", "UPDATE ledger_entry SET kind = 'invoice' WHERE kind = 'reset'"),
    ("entries_carry_their_keys", "UPDATE ledger_entry SET key = 'x' || key WHERE kind = 'reset'"),
    (
        "invoices_are_booked_once",
        """
        UPDATE ledger_entry SET key = 'invoice:in_1', kind = 'invoice' WHERE (attribution_id, key) IN (
            SELECT attribution_id, min(key) FROM ledger_entry WHERE kind IN ('reset', 'upgrade') GROUP BY 1)
        """,
    ),
    ("accounts_are_open", "DELETE FROM cost_center"),
    (
        "cycles_follow_one_another",
        "UPDATE cost_center SET cycle_started_at = cycle_started_at + interval '1 s' WHERE version = 2",
    ),
    ("resets_stay_within_limits", "UPDATE ledger_entry SET key = replace(key, 'T00', 'T01') WHERE kind = 'reset'"),
    (
        "nothing_is_of_the_future",
        "UPDATE ledger_entry SET effective_at = now() + interval '1 minute' WHERE kind = 'adjustment'",
    ),
    (
        "nothing_is_of_the_future",
        """
        UPDATE cost_center SET cycle_started_at = now() + interval '1 minute',
            next_billing_at = now() + interval '1 month' WHERE superseded_at IS NULL
        """,
    ),
    ("missed_sessions_have_ended", "UPDATE workspace_instance SET missed_at = NULL WHERE source = 'eu'"),
    (
        "resets_stay_within_limits",
        "UPDATE ledger_entry SET effective_at = effective_at + interval '1 s' WHERE kind = 'reset'",
    ),
]


@pytest.fixture
def lived_in(connection: Connection) -> Connection:
    """An installation with a history: finals, corrections, odd and running sessions, resets, switches."""
    wrong = stopped_report(2 * HOUR, workspace_class="xlarge")
    record(connection, wrong, session_report(), stopped_report(-HOUR), session_report(stopping_at=START))
    changed = [segment(START + HOUR, "medium"), segment(START + 2 * HOUR, "xlarge")]
    record(connection, stopped_report(3 * HOUR, segments=changed), session_report(segments=changed))
    record(connection, session_report(source="eu"))
    see(connection, "eu", START + HOUR)
    used(connection, team("paying"), 3000, at=START + DAY)
    post_batch(connection, at=START + DAY)
    record(connection, stopped_report(HOUR, instance_id=wrong.instance_id, workspace_class="xlarge", observed_at=NOW))
    post_batch(connection, at=START + 2 * DAY)
    put(connection, STRIPE, attribution_id=team("paying"), at=START + 2 * DAY)
    put(connection, OTHER, 7, at=START + 2 * DAY)
    used(connection, team(), 5000, at=START + 40 * DAY)
    while reset_due(connection, at=NOW).cycles:
        pass
    get(connection, at=NOW)
    return connection


def test_an_installation_with_a_history_is_clean(lived_in: Connection) -> None:
    verdict = verify(lived_in, at=NOW)
    assert verdict.clean
    assert verdict.describe() == ""
    kinds = lived_in.execute(text("SELECT DISTINCT kind FROM ledger_entry ORDER BY 1")).scalars().all()
    assert kinds == ["adjustment", "reset", "session", "upgrade"]


def test_an_empty_installation_is_clean(connection: Connection) -> None:
    assert verify(connection, at=NOW).clean


@pytest.mark.holds("clocks.verify")
def test_damage_is_found_by_its_check(lived_in: Connection, subtests: pytest.Subtests) -> None:
    lived_in.execute(text("SET LOCAL session_replication_role = replica"))
    lived_in.execute(text("ALTER TABLE ledger_entry DROP CONSTRAINT ledger_entry_kind_check"))
    for check, damage in DAMAGES:
        with subtests.test(f"{check}: {damage}"):
            savepoint = lived_in.begin_nested()
            changed = lived_in.execute(text(damage)).rowcount
            verdict = verify(lived_in, at=NOW)
            savepoint.rollback()
            assert changed > 0
            assert not verdict.clean
            assert check in {finding.check for finding in verdict.findings if finding.offenders}
            assert f"{check}: " in verdict.describe()
            assert all(finding.sample for finding in verdict.findings if finding.offenders)
    assert verify(lived_in, at=NOW).clean


def test_a_session_that_stopped_and_is_not_posted_is_found_from_its_stop_on(connection: Connection) -> None:
    late = stopped_report(HOUR)
    record(connection, late)
    assert verify(connection, at=START).clean
    assert verify(connection, at=START + HOUR).describe() == (
        f"stopped_sessions_are_posted: 1 offend, such as {late.instance_id}"
    )


def test_a_grants_burn_and_a_note_must_carry_their_keys_too(connection: Connection) -> None:
    get(connection)
    give(connection, 1000, expires_at=START + 5 * DAY)
    used(connection, team(), 300, at=START + DAY)
    settle_expired(connection, at=START + 5 * DAY)
    assert verify(connection, at=START + 6 * DAY).clean
    connection.execute(text("SET LOCAL session_replication_role = replica"))
    for damage in ("key = 'x' || key", "kind = 'credit_note'"):
        savepoint = connection.begin_nested()
        assert connection.execute(text(f"UPDATE ledger_entry SET {damage} WHERE kind = 'grant_burn'")).rowcount == 1  # noqa: S608
        assert "entries_carry_their_keys: 1 offend" in verify(connection, at=START + 6 * DAY).describe()
        savepoint.rollback()
