from concurrent.futures import ThreadPoolExecutor

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text

from usage_tasks.storage import migrate
from usage_tasks.storage.engine import Database
from usage_tasks.storage.schema import metadata

OBJECTS = """
    SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace),
           (SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal),
           (SELECT array_agg(version_num) FROM alembic_version)
"""


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
