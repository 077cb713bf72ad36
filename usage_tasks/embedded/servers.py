"""The servers that the worker needs: those the environment names, else our own."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from usage_tasks.embedded.postgres import running_postgres
from usage_tasks.embedded.redis import running_redis


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """Where the database and the broker are."""

    database_url: str
    redis_url: str


@contextmanager
def running_servers(directory: Path, environ: Mapping[str, str]) -> Iterator[Servers]:
    """Use DATABASE_URL and REDIS_URL where they are set; run what is missing, with its data below `directory`.

    `environ` also chooses binaries (PG_BINDIR, REDIS_SERVER, PATH) and is what the servers see. They end with the
    block; if SIGTERM shall end it in order, the entry point turns it into an exception. Raises StartError.
    """
    with ExitStack() as stack:
        # Redis first: it is up at once, and a broken setup shows before PostgreSQL makes its data.
        redis_url = environ.get("REDIS_URL") or stack.enter_context(running_redis(directory / "redis", environ))
        database_url = environ.get("DATABASE_URL") or stack.enter_context(
            running_postgres(directory / "postgres", environ)
        )
        yield Servers(database_url=database_url, redis_url=redis_url)
