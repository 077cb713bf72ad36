"""Bring a database to the schema of this version."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from usage_tasks.storage.engine import new_engine, translated

_LOCK_KEY = 7_305_211
"""Any number, the same everywhere: two migrations at once wait for one another."""


def alembic_config(connection: Connection) -> Config:
    """Configure Alembic for a connection that the caller owns."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def head_revision() -> str | None:
    """Answer the newest migration of this version."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return ScriptDirectory.from_config(config).get_current_head()


def upgrade(url: str) -> None:
    """Apply every migration that the database lacks; safe to run again and from several machines at once.

    Raises as `Database.transaction` does.
    """
    engine = new_engine(url)
    try:
        with translated(), engine.connect() as lock, engine.connect() as connection:
            lock.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _LOCK_KEY})
            command.upgrade(alembic_config(connection), "head")
    finally:
        engine.dispose()
