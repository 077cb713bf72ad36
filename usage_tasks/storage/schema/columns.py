"""The metadata that every table joins, and the columns and checks that they share."""

from collections.abc import Iterable
from datetime import datetime
from typing import TypeVar

from sqlalchemy import CheckConstraint, Column, DateTime, MetaData, Text, text
from sqlalchemy.types import TypeEngine

from usage_tasks.storage.rows import sql_list

T = TypeVar("T")

metadata = MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ck": "%(table_name)s_%(constraint_name)s_check",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)


def moment(name: str, *, nullable: bool = False, default_now: bool = False) -> Column[datetime]:
    """Make the column of an instant; with `default_now` it is the database's time of the insert."""
    return Column(
        name,
        DateTime(timezone=True),
        nullable=nullable,
        server_default=text("clock_timestamp()") if default_now else None,
    )


def account(*, primary_key: bool = False) -> Column[str]:
    """The account column; collation C, so that keys sort and range by bytes."""
    return Column("attribution_id", Text(collation="C"), primary_key=primary_key, nullable=False)


def required(name: str, kind: TypeEngine[T], *, default: str | None = None) -> Column[T]:
    """Make a column that is never null; `default` is SQL."""
    return Column(name, kind, nullable=False, server_default=None if default is None else text(default))


def one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    """Allow a column only the values of a closed set."""
    return CheckConstraint(f"{column} IN ({sql_list(values)})", name=column)
