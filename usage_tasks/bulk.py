"""`usage-tasks import`: a file of reports, streamed in chunks, each one transaction; a file again adds nothing."""

import csv
import gzip
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, TextIO
from uuid import UUID

from sqlalchemy import Connection

from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import InvalidInputError
from usage_tasks.runtime import Runtime
from usage_tasks.services.import_reports import Chunk, import_chunk
from usage_tasks.services.record import Recorded
from usage_tasks.storage import staging
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.staging import COLUMNS
from usage_tasks.tasks.arguments import AHEAD_MAX, NAME_LENGTH_MAX, find_instance_id, parse_reports

CHUNK_LINES: Final = 20_000
REQUIRED: Final = COLUMNS[:6]
_OBSERVED: Final = COLUMNS.index("observed_at")

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_is_uuid = re.compile(_UUID).fullmatch
_is_account = re.compile(f"(?:team|user):{_UUID}").fullmatch
# The one spelling that Python and PostgreSQL read alike without a doubt; any other is read as a task reads it.
_is_instant = re.compile(
    r"(?:19[7-9][0-9]|2[0-9]{3})-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|\+00:00)"
).fullmatch


def import_file(rt: Runtime, path: Path, *, at: datetime, actor: Actor, dry_run: bool = False) -> Iterator[Recorded]:
    """Take up a CSV file, `.gz` or not, with a header of report fields in any order; yield what each chunk did.

    Each chunk is committed before it is yielded, and memory holds one. An empty field is one that is left out. Raises
    InvalidInputError for a header that won't do, csv.Error or OSError for a file that can't be read on. A dry run does
    all of it in one transaction and takes it back; what reports the same sessions waits meanwhile.
    """
    parse = partial(parse_reports, at=at)
    with _opened(path) as lines, _transactions(rt, dry_run=dry_run) as transaction:
        reader = csv.reader(lines, strict=True)
        header = _checked_header(next(reader, []))
        numbered = ((reader.line_num, values) for values in reader if values)
        while rows := list(islice(numbered, CHUNK_LINES)):
            chunk = _read_chunk(rows, header, at=at)
            with transaction() as connection:
                done = import_chunk(connection, chunk, parse, limits=rt.spending_limits, at=at, actor=actor)
            yield done


@contextmanager
def _transactions(rt: Runtime, *, dry_run: bool) -> Iterator[Callable[[], AbstractContextManager[Connection]]]:
    if not dry_run:
        yield rt.transaction
        return
    with rt.transaction() as connection, rehearsal(connection):

        @contextmanager
        def one_for_all() -> Iterator[Connection]:
            yield connection
            staging.unstage(connection)

        yield one_for_all


@contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    # Bytes that are no UTF-8 become what no name may hold: such a row is quarantined, not the file refused.
    if path.suffix == ".gz":
        with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as lines:
            yield lines
    else:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as lines:
            yield lines


def _checked_header(header: Sequence[str]) -> Sequence[str]:
    known = ", ".join(COLUMNS)
    if missing := [name for name in REQUIRED if name not in header]:
        raise InvalidInputError("header", ",".join(header)[:200], f"a header line with {', '.join(missing)}")
    if unknown := [name for name in header if name not in COLUMNS]:
        raise InvalidInputError("header", unknown[0][:200], f"only {known}")
    if len(set(header)) != len(header):
        raise InvalidInputError("header", ",".join(header)[:200], "each column once")
    return header


def _read_chunk(rows: Sequence[tuple[int, Sequence[str]]], header: Sequence[str], *, at: datetime) -> Chunk:
    places = [header.index(name) if name in header else None for name in COLUMNS]
    plain: list[Sequence[object]] = []
    odd: dict[int, UUID | None] = {}
    for line, values in rows:
        if len(values) != len(header):
            odd[line] = None
            continue
        row = [None if place is None else values[place] or None for place in places]
        if _is_plain(row, latest=at + AHEAD_MAX):
            plain.append((line, *row[:_OBSERVED], row[_OBSERVED] or at.isoformat(), *row[_OBSERVED + 1 :]))
        else:
            odd[line] = find_instance_id(dict(zip(header, values, strict=True)))
    return Chunk(header=header, plain=plain, odd=odd, values=dict(rows))


def _is_plain(row: Sequence[str | None], *, latest: datetime) -> bool:
    """Tell whether a row is one that a task would take, and that PostgreSQL reads as it does; in doubt it is not."""
    instance_id, workspace_id, user_id, account, workspace_class, started_at, *moments, observed_at, source = row
    if not (instance_id and workspace_id and user_id and account and workspace_class and started_at):
        return False
    return (
        _is_uuid(instance_id) is not None
        and _is_uuid(user_id) is not None
        and _is_account(account) is not None
        and all(name is None or _is_name(name) for name in (workspace_id, workspace_class, source))
        and all(moment is None or _read_instant(moment) is not None for moment in (started_at, *moments))
        and (observed_at is None or ((seen := _read_instant(observed_at)) is not None and seen <= latest))
    )


def _is_name(text: str) -> bool:
    return len(text) <= NAME_LENGTH_MAX and text.isprintable()


def _read_instant(text: str) -> datetime | None:
    if _is_instant(text) is None:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
