"""Real workers for a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.workers import Workers, make_workers


@pytest.fixture
def workers(environment: dict[str, str], redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    """Workers of this test, stopped at its end."""
    made = make_workers(environment, redis_url, tmp_path)
    with made.stack:
        yield made
    made.redis.close()
    made.sender.close()
