from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from usage_tasks.domain.accounts import AttributionId
from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.ledger.balances import get_balance
from usage_tasks.storage.ledger.posting import post_stopped
from usage_tasks.storage.pricing import prices
from usage_tasks.storage.schema import metadata

AT: Final = datetime(2026, 1, 1, 10, tzinfo=UTC)
TEAM: Final = AttributionId("team:x")

OBJECTS = """
    SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
           (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal),
           (SELECT array_agg(version_num) FROM alembic_version)
"""

# A session that is posted, an invoice, and a correction that moved the start of the session behind its first entry.
LEDGER_OF_0016 = (
    """
    INSERT INTO workspace_instance (instance_id, attribution_id, user_id, workspace_id, workspace_class, started_at,
                                    stopped_at, observed_at, last_seen_at)
    SELECT md5(name)::uuid, 'team:a', gen_random_uuid(), 'ws', 'small', started_at, '2026-01-20Z', now(), now()
    FROM (VALUES ('plain', '2025-11-01Z'::timestamptz), ('moved', '2026-01-10Z')) AS t(name, started_at)
    """,
    """
    INSERT INTO ledger_entry (attribution_id, key, kind, credit_cents, effective_at, description, instance_id)
    SELECT 'team:a', key, kind, cents, at::timestamptz, '', id
    FROM (SELECT md5('plain')::uuid AS plain, md5('moved')::uuid AS moved) AS t, LATERAL (VALUES
        ('session:' || plain || ':' || 1, 'session', 60, '2025-12-29Z', plain),
        ('session:' || moved || ':' || 1, 'session', 40, '2026-01-01Z', moved),
        ('session:' || moved || ':' || 2, 'adjustment', 7, '2026-01-12Z', moved),
        ('invoice:in_1', 'invoice', -50, '2026-01-11 23:59:59.999999Z', NULL)
    ) AS e(key, kind, cents, at, id)
    """,
)


def objects(url: str) -> tuple[object, ...]:
    database = Database(url)
    with database.transaction() as connection:
        found = tuple(connection.execute(text(OBJECTS)).one())
    database.dispose()
    return found


def test_the_migrated_database_equals_the_metadata(connection: Connection) -> None:
    options = {"compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    assert compare_metadata(context, metadata) == []


def test_alembic_check_finds_nothing_to_do(connection: Connection) -> None:
    command.check(migrate.alembic_config(connection))


def test_there_is_one_head(connection: Connection) -> None:
    assert len(ScriptDirectory.from_config(migrate.alembic_config(connection)).get_heads()) == 1


def test_upgrading_twice_is_harmless(empty_url: str) -> None:
    migrate.upgrade(empty_url)
    once = objects(empty_url)
    migrate.upgrade(empty_url)
    assert objects(empty_url) == once


def test_two_upgrades_at_once_are_harmless(empty_url: str, database: Database) -> None:
    with ThreadPoolExecutor() as pool:
        for upgrade in [pool.submit(migrate.upgrade, empty_url) for _ in range(2)]:
            upgrade.result()
    with database.transaction() as connection:
        assert objects(empty_url) == tuple(connection.execute(text(OBJECTS)).one())


def test_sessions_of_an_older_version_keep_their_end_and_get_a_proof_of_life(empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        command.upgrade(migrate.alembic_config(connection), "0002")
    insert = """
        INSERT INTO workspace_instance (instance_id, attribution_id, user_id, workspace_id, workspace_class, started_at,
                                        stopped_at, observed_at, posted_revision, settled_at)
        SELECT gen_random_uuid(), 'team:x', gen_random_uuid(), 'ws', 'small', '2026-01-01Z', stopped_at, '2026-01-02Z',
               (stopped_at IS NOT NULL)::int, stopped_at
        FROM unnest(ARRAY[NULL, '2026-01-01 10:00Z'::timestamptz]) AS t(stopped_at)
    """
    with engine.begin() as connection:
        connection.execute(text(insert))
    migrate.upgrade(empty_url)
    held = """
        SELECT ended_at = '2026-01-01 10:00Z', final_at = '2026-01-01 10:00Z', last_seen_at = '2026-01-02Z',
               (SELECT revision FROM open_session o WHERE o.instance_id = w.instance_id)
        FROM workspace_instance w ORDER BY ended_at
    """
    with engine.connect() as connection:
        found = [tuple(row) for row in connection.execute(text(held))]
    engine.dispose()
    assert found == [(True, True, None, None), (None, None, True, 1)]


def test_sessions_of_a_version_without_timelines_are_posted_as_they_were(empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        command.upgrade(migrate.alembic_config(connection), "0022")
    with engine.begin() as connection:
        prices.publish_prices(connection, {"small": Decimal(1)}, at=AT, actor="service:tests")
        connection.execute(
            text("""
                INSERT INTO workspace_instance (instance_id, attribution_id, user_id, workspace_id, workspace_class,
                                                started_at, stopped_at, observed_at, last_seen_at)
                SELECT gen_random_uuid(), 'team:x', gen_random_uuid(), 'ws', 'small', '2026-01-01Z', stopped_at,
                       '2026-01-02Z', '2026-01-02Z'
                FROM unnest(ARRAY[NULL, '2026-01-01 10:00Z'::timestamptz]) AS t(stopped_at)
            """)
        )
    migrate.upgrade(empty_url)
    with engine.begin() as connection:
        held = (
            "SELECT timeline, first_observed_at FROM workspace_instance UNION SELECT timeline, NULL FROM open_session"
        )
        assert {tuple(row) for row in connection.execute(text(held))} == {(None, None)}
        assert get_balance(connection, TEAM, at=AT) == 2 * 60_000
        assert post_stopped(connection, at=AT, limit=10).credit_cents == 60_000
        assert get_balance(connection, TEAM, at=AT) == 2 * 60_000
    engine.dispose()


def test_open_sessions_of_a_version_without_parts_are_taken_apart(empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        command.upgrade(migrate.alembic_config(connection), "0026")
    with engine.begin() as connection:
        prices.publish_prices(connection, {"small": Decimal(1), "large": Decimal(2)}, at=AT, actor="service:tests")
        connection.execute(
            text("""
                INSERT INTO workspace_instance (instance_id, attribution_id, user_id, workspace_id, workspace_class,
                                                started_at, observed_at, last_seen_at, timeline)
                SELECT gen_random_uuid(), 'team:x', gen_random_uuid(), 'ws', 'small', '2026-01-01Z', '2026-01-02Z',
                       '2026-01-02Z', CAST(timeline AS jsonb)
                FROM unnest(ARRAY[NULL, '[
                    {"from": "2025-12-31T00:00:00.000000Z", "observed_at": "2026-01-02T00:00:00.000000Z",
                     "workspace_class": "large", "state": "running"},
                    {"from": "2026-01-01T09:00:00.000000Z", "observed_at": "2026-01-02T00:00:00.000000Z",
                     "workspace_class": "small", "state": "running"}
                ]']) AS t(timeline)
            """)
        )
    migrate.upgrade(empty_url)
    with engine.begin() as connection:
        held = "SELECT price_keys, priced_from[2] FROM open_session ORDER BY 1"
        parts = [tuple(row) for row in connection.execute(text(held))]
        # Ten hours at 1; nine hours at 2 and one hour at 1.
        assert get_balance(connection, TEAM, at=AT) == 60_000 + 114_000
    engine.dispose()
    assert parts == [(["large", "small"], datetime(2026, 1, 1, 9, tzinfo=UTC)), (None, None)]


def test_entries_of_an_older_version_are_counted_in_their_weeks(empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        command.upgrade(migrate.alembic_config(connection), "0016")
    with engine.begin() as connection:
        for statement in LEDGER_OF_0016:
            connection.execute(text(statement))
    migrate.upgrade(empty_url)
    weeks = (
        "SELECT attribution_id, starts_at::text, credit_cents, reaches_back_to::text FROM account_week ORDER BY 1, 2"
    )
    with engine.connect() as connection:
        connection.execute(text("SET timezone = UTC"))
        before = [tuple(row) for row in connection.execute(text(weeks))]
        connection.execute(
            text(
                "INSERT INTO ledger_entry SELECT 'team:b', 'new', kind, 5, effective_at, now(), ''"
                " FROM ledger_entry WHERE kind = 'invoice'"
            )
        )
        added = [tuple(row) for row in connection.execute(text(weeks))]
    engine.dispose()
    assert before == [
        ("team:a", "2025-12-29 00:00:00+00", 100, "2025-11-01 00:00:00+00"),
        ("team:a", "2026-01-05 00:00:00+00", -50, None),
        ("team:a", "2026-01-12 00:00:00+00", 7, "2026-01-01 00:00:00+00"),
    ]
    assert added == [*before, ("team:b", "2026-01-05 00:00:00+00", 5, None)]


def test_what_is_posted_while_weeks_are_filled_is_counted_once(empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        command.upgrade(migrate.alembic_config(connection), "0016")
    posting = "INSERT INTO ledger_entry VALUES ('team:a', :key, 'invoice', -3, '2026-01-06Z', now(), '')"
    with engine.begin() as connection:
        connection.execute(text(posting), {"key": "before"})
    with engine.connect() as connection:
        command.upgrade(migrate.alembic_config(connection), "0017")
    with ThreadPoolExecutor() as pool:
        with engine.begin() as connection:
            connection.execute(text(posting), {"key": "meanwhile"})
            upgrade = pool.submit(migrate.upgrade, empty_url)
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = :event"
            while not upgrade.done() and not connection.execute(text(waiting), {"event": "transactionid"}).scalar_one():
                connection.execute(text("SELECT pg_stat_clear_snapshot(), pg_sleep(0.02)"))
        upgrade.result()
    with engine.connect() as connection:
        found = connection.execute(text("SELECT credit_cents FROM account_week")).scalars().all()
    engine.dispose()
    assert found == [-6]


def test_a_database_with_sessions_gets_names_and_a_namespace_of_its_own_and_no_row_changes(empty_url: str) -> None:
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        command.upgrade(migrate.alembic_config(connection), "0024")
    with engine.begin() as connection:
        for statement in LEDGER_OF_0016:
            connection.execute(text(statement))
    tables = ("workspace_instance", "open_session", "ledger_entry", "installation", "directory_user")

    def held() -> list[object]:
        # Columns that a later version adds are null.
        every = 'SELECT xmin, jsonb_strip_nulls(to_jsonb(t)) FROM "{}" t ORDER BY 2'
        with engine.connect() as connection:
            return [connection.execute(text(every.format(table))).all() for table in tables]

    before = held()
    migrate.upgrade(empty_url)
    with engine.connect() as connection:
        named = connection.execute(text("SELECT count(*) FROM directory_name")).scalar_one()
        distinct = "SELECT count(*) FROM directory_namespace JOIN installation ON namespace <> installation_id"
        namespaces = connection.execute(text(distinct)).scalar_one()
    after = held()
    engine.dispose()
    assert (named, namespaces) == (0, 1)
    assert after == before
