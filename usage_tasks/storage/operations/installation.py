"""The identity of this installation: an id that a dump carries along, and the database in which the id is now."""

from typing import Any

from sqlalchemy import Connection, text

from usage_tasks.wire.installations import UNKNOWN_SERVER, InstallationIdentity

_READ = """
    SELECT installation_id::text,
           (SELECT oid FROM pg_database WHERE datname = current_database())
    FROM installation
"""
_SERVER = "SELECT system_identifier FROM pg_control_system()"
_MAY_ASK = "SELECT has_function_privilege('pg_control_system()', 'EXECUTE')"


def read_installation(connection: Connection) -> InstallationIdentity:
    """Return the identity. The database is named by the identifier of its server and its oid there.

    A database that was restored from a dump has another oid, on another server another identifier too. A copy of a
    server's files has the same ones.
    """
    installation_id, oid = connection.execute(text(_READ)).one()
    server: Any = UNKNOWN_SERVER
    if connection.execute(text(_MAY_ASK)).scalar_one():  # a provider may keep it from its customers
        server = connection.execute(text(_SERVER)).scalar_one()
    return InstallationIdentity(installation_id=installation_id, database=f"{server}/{oid}")


def renew_installation(connection: Connection) -> InstallationIdentity:
    """Give the installation a new id: it is a copy, and shall be an installation of its own."""
    connection.execute(
        text("UPDATE installation SET installation_id = gen_random_uuid(), created_at = clock_timestamp()")
    )
    return read_installation(connection)
