"""Alembic's environment: the metadata of the schema and the connection that the caller hands over."""

from alembic import context

from usage_tasks.storage.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
