"""Alembic's environment: the metadata of the schema and the connection that the caller hands over."""

from typing import Any

from alembic import context

from usage_tasks.storage.schema import metadata
from usage_tasks.storage.schema_version import mark_compatible


def _mark(ctx: Any, step: Any, heads: object, run_args: object) -> None:  # noqa: ARG001 - as Alembic calls it
    """Note with each migration, in its transaction, from which revision on code may run on the schema."""
    if step.is_upgrade and not step.is_stamp:
        module = step.up_revision.module
        compatible_from = getattr(module, "compatible_from", None)
        mark_compatible(ctx.connection, revision=step.up_revision_id, compatible_from=compatible_from)


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    transaction_per_migration=True,
    on_version_apply=_mark,
)
with context.begin_transaction():
    context.run_migrations()
