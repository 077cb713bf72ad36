"""No migration keeps writers out for as long as a table is large (storage/migration_steps.py has the rules)."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command, op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.engine import make_url

from tests.storage.long_locks import watched_locks
from usage_tasks.storage import migrate
from usage_tasks.storage.migration_steps import add_check, add_foreign_key, create_index, replace_check, validate
from usage_tasks.storage.schema_version import needed_revision

LAST_BEFORE_THE_RULES = "0016"


def revisions() -> Sequence[str]:
    files = Path(migrate.__file__).parent.glob("migrations/versions/[0-9]*.py")
    return sorted(each.name[:4] for each in files if each.name[:4] > LAST_BEFORE_THE_RULES)


@pytest.fixture
def empty(empty_url: str) -> Iterator[Connection]:
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.fixture
def migrated(database_url: str) -> Iterator[Connection]:
    engine = create_engine(make_url(database_url).set(drivername="postgresql+psycopg"))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


@pytest.mark.parametrize("revision", revisions())
def test_a_migration_reads_and_rewrites_no_table_that_it_keeps_others_from(empty: Connection, revision: str) -> None:
    config = migrate.alembic_config(empty)
    script = ScriptDirectory.from_config(config).get_revision(revision)
    command.upgrade(config, str(script.down_revision))
    with watched_locks(empty) as locks:
        command.upgrade(migrate.alembic_config(empty), revision)
    assert locks.found == []


@pytest.mark.parametrize("revision", ["0006", "0010", "0012"])
def test_the_ledger_is_not_read_again_by_the_migrations_that_change_its_kinds(empty: Connection, revision: str) -> None:
    config = migrate.alembic_config(empty)
    script = ScriptDirectory.from_config(config).get_revision(revision)
    command.upgrade(config, str(script.down_revision))
    with watched_locks(empty) as locks:
        command.upgrade(migrate.alembic_config(empty), revision)
    assert [each for each in locks.found if each.startswith("ledger_entry")] == []


def run(connection: Connection, *steps: Callable[[], object] | str) -> list[str]:
    """Run the steps as one migration would, and return the findings."""
    context = MigrationContext.configure(connection, opts={"transaction_per_migration": True})
    with (
        watched_locks(connection) as locks,
        Operations.context(context),
        context.begin_transaction(_per_migration=True),
    ):
        for step in steps:
            op.execute(step) if isinstance(step, str) else step()
    return locks.found


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE ledger_entry ADD CONSTRAINT probe CHECK (credit_cents < 9)",
        "ALTER TABLE ledger_entry ADD COLUMN probe int CHECK (probe > 0)",
        "ALTER TABLE meter_report ADD CONSTRAINT probe FOREIGN KEY (attribution_id) REFERENCES account_balance",
        "CREATE INDEX probe ON ledger_entry (posted_at)",
        "CREATE UNIQUE INDEX probe ON ledger_entry (posted_at)",
        "ALTER TABLE ledger_entry ADD CONSTRAINT probe UNIQUE (posted_at)",
        "ALTER TABLE ledger_entry ALTER COLUMN user_id SET NOT NULL",
        "ALTER TABLE ledger_entry ALTER COLUMN credit_cents TYPE numeric",
        "ALTER TABLE ledger_entry ADD COLUMN probe uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE ledger_entry ADD COLUMN probe bigserial",
        "ALTER TABLE ledger_entry ADD COLUMN probe int GENERATED ALWAYS AS (credit_cents + 1) STORED",
        "LOCK TABLE stripe_event; UPDATE stripe_event SET source = 'webhook'",
        "CLUSTER ledger_entry USING ledger_entry_pkey",
    ],
)
def test_a_step_that_takes_a_long_lock_is_refused(migrated: Connection, statement: str) -> None:
    assert run(migrated, statement) != []


def test_a_constraint_that_is_validated_where_it_is_added_is_refused(migrated: Connection) -> None:
    def both() -> None:
        add_check("ledger_entry", "probe", "credit_cents < 9")
        validate("ledger_entry", "probe")

    assert run(migrated, both) == ["ledger_entry: read under a lock that keeps writers out"]


def test_an_index_that_is_built_outside_of_a_transaction_but_not_concurrently_is_refused(migrated: Connection) -> None:
    def build() -> None:
        with op.get_context().autocommit_block():
            op.create_index("probe", "ledger_entry", ["posted_at"])

    assert run(migrated, build) != []


def test_the_steps_of_the_rules_take_no_long_lock(migrated: Connection) -> None:
    assert run(migrated, lambda: add_check("ledger_entry", "probe", "credit_cents < 9")) == []
    assert run(migrated, lambda: replace_check("ledger_entry", "probe", "user_id IS NOT NULL")) == []
    assert run(migrated, lambda: validate("ledger_entry", "probe")) == []
    assert run(migrated, "ALTER TABLE ledger_entry ALTER COLUMN user_id SET NOT NULL") == []
    target = ("account_balance", ["attribution_id"])
    assert run(migrated, lambda: add_foreign_key("meter_report", "probe_fkey", ["attribution_id"], *target)) == []
    assert run(migrated, lambda: validate("meter_report", "probe_fkey")) == []
    assert run(migrated, "ALTER TABLE ledger_entry ADD COLUMN probe int DEFAULT 3 NOT NULL") == []
    assert run(migrated, "CREATE TABLE probe (a int CHECK (a > 0)); CREATE INDEX ON probe (a)") == []
    index = ("probe_idx", "ledger_entry", ["posted_at"])
    assert run(migrated, lambda: create_index(*index, postgresql_where=sa.text("credit_cents > 0"))) == []


def test_an_index_whose_building_was_broken_off_is_built_again(migrated: Connection) -> None:
    migrated.execute(text("CREATE INDEX probe_idx ON ledger_entry (posted_at)"))
    migrated.execute(text("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'probe_idx'::regclass"))
    migrated.commit()
    for _ in range(2):
        assert run(migrated, lambda: create_index("probe_idx", "ledger_entry", ["posted_at"])) == []
        valid = migrated.scalar(text("SELECT indisvalid FROM pg_index WHERE indexrelid = 'probe_idx'::regclass"))
        assert valid is True
        migrated.rollback()


def test_the_rules_hold_from_a_migration_on_that_exists() -> None:
    assert needed_revision() in revisions()
