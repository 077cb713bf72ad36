"""Rows of a list as JSON lines."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from usage_tasks.services.directory.show_names import Shown, show_names
from usage_tasks.storage.rows import as_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def write_lines(connection: Connection, rows: Sequence["DataclassInstance"]) -> None:
    """Print rows, a line each, with names beside their ids."""
    lines = [json.loads(as_json(asdict(row))) for row in rows]
    show_names(connection, Shown({"lines": lines}, {}))
    for line in lines:
        sys.stdout.write(as_json(line) + "\n")
