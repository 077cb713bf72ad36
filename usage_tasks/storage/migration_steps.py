"""Steps of migrations that let others read and write a large table meanwhile.

Rules, which tests/storage/test_long_locks.py holds:

- A table that exists is never read or rewritten under a lock that keeps writers out. So a CHECK or a foreign key is
  added without a look at the rows (`add_check`, `replace_check`, `add_foreign_key`), and one of the next migrations
  looks at them (`validate`), under a lock that keeps out nobody but other migrations.
- An index of a table that exists is built by `create_index`, alone in its migration.
- A column becomes NOT NULL in three migrations: `add_check` of `column IS NOT NULL`, `validate`, then SET NOT NULL, for
  which PostgreSQL trusts the valid CHECK, and the CHECK is dropped.
- A new column has no default, or a constant one. A column's type does not change: a new column takes its place.
- `compatible_from` of a migration is the oldest revision whose code still runs on the schema. First expand: what a
  version adds, older code leaves alone. Contract, by a later version, when no such code runs any more.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from alembic import op
from sqlalchemy import text

_INVALID = "SELECT FROM pg_index WHERE indexrelid = to_regclass(:name) AND NOT indisvalid"


def add_check(table: str, name: str, condition: str) -> None:
    """Add a CHECK that holds for what is written from now on; `validate` it in a later migration."""
    op.create_check_constraint(op.f(name), table, condition, postgresql_not_valid=True)


def replace_check(table: str, name: str, condition: str) -> None:
    """Change the condition of a CHECK for what is written from now on; `validate` it in a later migration."""
    op.drop_constraint(op.f(name), table, type_="check")
    add_check(table, name, condition)


def add_foreign_key(table: str, name: str, columns: list[str], target: str, target_columns: list[str]) -> None:
    """Add a foreign key that holds for what is written from now on; `validate` it in a later migration."""
    op.create_foreign_key(op.f(name), table, target, columns, target_columns, postgresql_not_valid=True)


def validate(table: str, name: str) -> None:
    """Look at all rows for a constraint. Others read and write; nothing to do if it is valid already."""
    op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {name}")


def create_index(name: str, table: str, columns: Sequence[Any], **options: Any) -> None:
    """Build an index while others write, also after an attempt that was broken off.

    It waits for every transaction that is older.
    """
    with beside_others():
        if op.get_bind().execute(text(_INVALID), {"name": name}).first() is not None:
            op.execute(f"DROP INDEX CONCURRENTLY {name}")
        op.create_index(name, table, columns, if_not_exists=True, postgresql_concurrently=True, **options)


@contextmanager
def beside_others() -> Iterator[None]:
    """Run statements each in a transaction of its own, with no limit to a wait: for locks that keep no queue waiting.

    The migration may be broken off between any two of them, and is then run again from its beginning.
    """
    with op.get_context().autocommit_block():
        connection = op.get_bind()
        before = connection.execute(text("SHOW lock_timeout")).scalar_one()
        connection.execute(text("SET lock_timeout = 0"))
        yield
        connection.execute(text("SELECT set_config('lock_timeout', :before, false)"), {"before": before})
