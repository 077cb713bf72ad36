"""Chunks of a file, spread over lanes by session: while they are merged, the next ones are read."""

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from usage_tasks.bulk.header import AS_NAMED, ColumnRules
from usage_tasks.bulk.reading import Misfit, RowsOfFile, opened
from usage_tasks.domain.accounts import Actor, AttributionId, Namespace
from usage_tasks.domain.errors import RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.services.sessions.changes import OddRow
from usage_tasks.services.sessions.import_reports import Chunk, Imported, as_report, import_chunk
from usage_tasks.services.sessions.record import RecordedBatch
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.sessions.bulk_copy import COLUMNS, PlainRow
from usage_tasks.storage.sessions.merging import sum_merged
from usage_tasks.wire.session_reports import find_instance_id

CHUNK_LINES: Final = 5_000
LANES: Final = 2
PARTS_MAX: Final = 2  # in work and read ahead
ATTEMPTS_MAX: Final = 5
OPENED_MAX: Final = 50_000  # accounts that are remembered, about
PAUSE_FIRST: Final = timedelta(milliseconds=200)  # at most; it doubles

# By the last digit of its session: a row's lane.
_LANES: Final = {digit: int(digit, 16) % LANES for digit in "0123456789abcdef"}


def import_file(
    rt: Runtime,
    path: Path,
    *,
    at: datetime,
    actor: Actor,
    rules: ColumnRules = AS_NAMED,
    chunk_lines: int = CHUNK_LINES,
) -> Iterator[RecordedBatch]:
    """Import a CSV file, `.gz` or not, with a header of report fields in any order. Yield the result of each part.

    `rules` give the columns with other names, and whether extra columns are allowed.
    Parts are yielded in the file's order, each after its commit; memory holds a few. An empty field counts as missing.
    Raises InvalidInputError for a wrong header, csv.Error or OSError for a file that cannot be read on, RetryableError
    if the database stays away. Committed parts stay, and another import of the file adds the rest.
    """
    with opened(path, rules) as rows, ExitStack() as stack:
        lanes = [stack.enter_context(ThreadPoolExecutor(1, "lane")) for _ in range(LANES)]
        work = partial(_take_up, rt, opened=set(), at=at, actor=actor)
        parts: deque[Sequence[Future[RecordedBatch]]] = deque()
        try:
            for chunks in _read(rows, chunk_lines, namespace=rt.name_namespace):
                parts.append([lane.submit(work, chunk) for lane, chunk in zip(lanes, chunks, strict=True)])
                if len(parts) > PARTS_MAX:
                    yield _together([lane.result() for lane in parts.popleft()])
            while parts:
                yield _together([lane.result() for lane in parts.popleft()])
        finally:
            for each in chain.from_iterable(parts):
                each.cancel()


def rehearse_file(
    rt: Runtime,
    path: Path,
    *,
    at: datetime,
    actor: Actor,
    rules: ColumnRules = AS_NAMED,
    chunk_lines: int = CHUNK_LINES,
) -> Iterator[RecordedBatch]:
    """Yield what `import_file` would do, part by part, by executing it in one transaction and rolling back.

    Other reports of the same sessions wait meanwhile. Raises as `import_file` does.
    """
    with opened(path, rules) as rows, rt.transaction() as connection, rehearsal(connection):
        for chunks in _read(rows, chunk_lines, namespace=rt.name_namespace):
            done = [_merge(rt, connection, chunk, opened=frozenset(), at=at, actor=actor) for chunk in chunks]
            yield _together([each.recorded for each in done])


def _together(done: Sequence[RecordedBatch]) -> RecordedBatch:
    rejections = sorted(chain.from_iterable(each.rejections for each in done), key=lambda rejection: rejection.index)
    return RecordedBatch(merged=sum_merged(each.merged for each in done), rejections=rejections)


def _take_up(rt: Runtime, chunk: Chunk, *, opened: set[AttributionId], at: datetime, actor: Actor) -> RecordedBatch:
    """Commit a chunk. If two lanes deadlock at accounts that both open, one of them tries again.

    Its accounts are remembered once it is committed: an open account stays open.
    """
    attempt = 1
    while True:
        try:
            with rt.transaction() as connection:
                done = _merge(rt, connection, chunk, opened=opened, at=at, actor=actor)
            break
        except RetryableError:
            if attempt == ATTEMPTS_MAX:
                raise
            time.sleep(random.uniform(0, PAUSE_FIRST.total_seconds() * 2 ** (attempt - 1)))
            attempt += 1
    if len(opened) < OPENED_MAX:
        opened |= done.accounts
    return done.recorded


def _merge(
    rt: Runtime, connection: Connection, chunk: Chunk, *, opened: Set[AttributionId], at: datetime, actor: Actor
) -> Imported:
    return import_chunk(
        connection,
        chunk,
        opened=opened,
        limits=rt.spending_limits,
        at=at,
        actor=actor,
    )


def _read(rows: RowsOfFile, chunk_lines: int, *, namespace: Namespace) -> Iterator[Sequence[Chunk]]:
    """Read on, a chunk for each lane at a time."""
    place, pick = rows.header.index("instance_id"), _picked(rows.header)
    for part in rows.read(chunk_lines * LANES):
        chunks = [Chunk(plain={}, odd={}) for _ in range(LANES)]
        plain = [chunk.plain for chunk in chunks]
        for line, values in part.plain.items():
            plain[_LANES[values[place][-1]]][line] = pick(values)
        for line, values in part.odd.items():
            _add_odd(chunks, line, values, rows.header, namespace=namespace)
        yield chunks


def _picked(header: Sequence[str]) -> Callable[[Sequence[str]], PlainRow]:
    """Return a function that puts a row's values in the order of COLUMNS, with "" for a column that the file lacks."""
    if tuple(header) == COLUMNS:
        return tuple
    places = [header.index(name) if name in header else None for name in COLUMNS]
    return lambda values: tuple("" if place is None else values[place] for place in places)


def _add_odd(
    chunks: Sequence[Chunk], line: int, values: Sequence[str], header: Sequence[str], *, namespace: Namespace
) -> None:
    """Add a row that is not plain to the chunk of its session, if its session is known."""
    row = values if isinstance(values, Misfit) else as_report(header, values)
    instance_id = find_instance_id(row, namespace=namespace)
    chunks[0 if instance_id is None else _LANES[str(instance_id)[-1]]].odd[line] = OddRow(row, instance_id)
