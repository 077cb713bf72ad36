"""Chunks of a file, spread over lanes by session: while they are merged, the next ones are read."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from usage_tasks.bulk.reading import RowsOfFile, opened
from usage_tasks.domain.accounts import Actor
from usage_tasks.domain.errors import RetryableError
from usage_tasks.runtime import Runtime
from usage_tasks.services.import_reports import Chunk, import_chunk
from usage_tasks.services.record import Recorded
from usage_tasks.storage import staging
from usage_tasks.storage.engine import rehearsal
from usage_tasks.storage.sessions import sum_merged
from usage_tasks.tasks.arguments import AHEAD_MAX, find_instance_id, parse_reports

CHUNK_LINES: Final = 5_000
LANES: Final = 2
PARTS_MAX: Final = 2  # in work and read ahead
ATTEMPTS_MAX: Final = 5


def import_file(
    rt: Runtime, path: Path, *, at: datetime, actor: Actor, chunk_lines: int = CHUNK_LINES
) -> Iterator[Recorded]:
    """Take up a CSV file, `.gz` or not, with a header of report fields in any order; yield what each part of it did.

    Parts are yielded in the file's order, each after it was committed; memory holds a few. An empty field is one that
    is left out. Raises InvalidInputError for a header that won't do, csv.Error or OSError for a file that can't be read
    on, RetryableError where the database stays away; what was committed stays, and the file again adds the rest.
    """
    with opened(path) as rows, ExitStack() as stack:
        lanes = [stack.enter_context(ThreadPoolExecutor(1, "lane")) for _ in range(LANES)]
        work = partial(_take_up, rt, at=at, actor=actor)
        parts: deque[Sequence[Future[Recorded]]] = deque()
        try:
            for chunks in _read(rows, chunk_lines):
                parts.append([lane.submit(work, chunk) for lane, chunk in zip(lanes, chunks, strict=True)])
                if len(parts) > PARTS_MAX:
                    yield _together([lane.result() for lane in parts.popleft()])
            while parts:
                yield _together([lane.result() for lane in parts.popleft()])
        finally:
            for each in chain.from_iterable(parts):
                each.cancel()


def rehearse_file(
    rt: Runtime, path: Path, *, at: datetime, actor: Actor, chunk_lines: int = CHUNK_LINES
) -> Iterator[Recorded]:
    """Answer what `import_file` would do, part by part, by doing it in one transaction and taking that back.

    What reports the same sessions waits meanwhile. Raises as `import_file` does.
    """
    with opened(path) as rows, rt.transaction() as connection, rehearsal(connection):
        for chunks in _read(rows, chunk_lines):
            done = []
            for chunk in chunks:
                done.append(_merge(rt, connection, chunk, at=at, actor=actor))
                staging.unstage(connection)
            yield _together(done)


def _together(done: Sequence[Recorded]) -> Recorded:
    rejections = sorted(chain.from_iterable(each.rejections for each in done), key=lambda rejection: rejection.index)
    return Recorded(merged=sum_merged(each.merged for each in done), rejections=rejections)


def _take_up(rt: Runtime, chunk: Chunk, *, at: datetime, actor: Actor) -> Recorded:
    """Commit a chunk. Of two lanes that wait for one another, at accounts that both open, one goes again."""
    attempt = 1
    while True:
        try:
            with rt.transaction() as connection:
                return _merge(rt, connection, chunk, at=at, actor=actor)
        except RetryableError:
            if attempt == ATTEMPTS_MAX:
                raise
            attempt += 1


def _merge(rt: Runtime, connection: Connection, chunk: Chunk, *, at: datetime, actor: Actor) -> Recorded:
    parse, limits = partial(parse_reports, at=at), rt.spending_limits
    return import_chunk(connection, chunk, parse, limits=limits, at=at, latest=at + AHEAD_MAX, actor=actor)


def _read(rows: RowsOfFile, chunk_lines: int) -> Iterator[Sequence[Chunk]]:
    """Read on, a chunk for each lane at a time."""
    place = rows.header.index("instance_id")
    numbered = iter(rows)
    while taken := list(islice(numbered, chunk_lines * LANES)):
        chunks = [Chunk(header=rows.header, rows={}, odd={}) for _ in range(LANES)]
        for line, row in taken:
            if isinstance(row, str):
                chunks[_lane(row.split(",", place + 1)[place])].rows[line] = row
            else:
                _add_odd(chunks, line, row)
        yield chunks


def _add_odd(chunks: Sequence[Chunk], line: int, values: Sequence[str]) -> None:
    """A row that is not plain goes where its session goes, if that can be told."""
    header = chunks[0].header
    row = dict(zip(header, values, strict=True)) if len(values) == len(header) else None
    instance_id = find_instance_id(row)
    chunk = chunks[0 if instance_id is None else _lane(str(instance_id))]
    chunk.rows[line] = values
    chunk.odd[line] = instance_id


def _lane(instance_id: str) -> int:
    return int(instance_id[-1], 16) % LANES
