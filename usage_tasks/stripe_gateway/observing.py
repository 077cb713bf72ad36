"""Observation of calls: duration and outcome per operation as metrics, and Stripe's request ids in the log."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import requests
import stripe
import structlog
from requests.utils import get_environ_proxies

from usage_tasks.domain.errors import DeclinedError, RetryableError, UsageError
from usage_tasks.stripe_gateway.clocks import read_date
from usage_tasks.telemetry.clocks import CLOCKS, STRIPE
from usage_tasks.telemetry.metrics import STRIPE_CALL_SECONDS, STRIPE_CLOCK

log = structlog.get_logger(__name__)

_QUIET: Final = frozenset({"meter_events.create"})
"""Thousands an hour, each a row of its own: their lines are for debugging."""


class Noting(stripe.RequestsClient):
    """The SDK's HTTP client, which notes the request ids and the time that Stripe answered with. One a thread."""

    def __init__(self, api_base: str, timeout: tuple[float, float]) -> None:
        session = requests.Session()
        # Looked up once: left to itself, the session reads proxies out of the environment, and a .netrc whose password
        # would stand in for our key, at every call.
        session.proxies.update(get_environ_proxies(api_base))
        session.trust_env = False
        super().__init__(timeout=timeout, session=session)
        self.request_ids: list[str] = []
        self.clock_ahead: timedelta | None = None
        """How far this machine's clock is ahead of Stripe's, by the latest answer."""

    def request(  # type: ignore[override]  # the SDK's RequestsClient differs from its own base in the same way
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        asked = time.time()
        answer: tuple[bytes, int, Mapping[str, str]] = super().request(method, url, headers, post_data)
        if request_id := answer[2].get("Request-Id"):
            self.request_ids.append(request_id)
        if (stripe_at := read_date(answer[2])) is not None:
            self.clock_ahead = datetime.now(UTC) - stripe_at
            STRIPE_CLOCK.set(self.clock_ahead.total_seconds())
            CLOCKS.note_date(STRIPE, stripe_at, asked=asked)
        return answer


@contextmanager
def observed(operation: str, http_client: Noting) -> Iterator[None]:
    """Measure a call, and write one line about it: no parameter, no payload, no message."""
    http_client.request_ids.clear()
    started = time.perf_counter()
    outcome = "ok"
    try:
        yield
    except UsageError as error:
        outcome = outcome_of(error)
        raise
    finally:
        elapsed = time.perf_counter() - started
        STRIPE_CALL_SECONDS.labels(operation, outcome).observe(elapsed)
        write = log.debug if outcome == "ok" and operation in _QUIET else log.info
        write(
            "stripe.called",
            operation=operation,
            outcome=outcome,
            duration_seconds=round(elapsed, 4),
            request_ids=list(http_client.request_ids),
        )


def outcome_of(error: UsageError) -> str:
    """Name how a call ended: a bank's no is business, not a fault."""
    if isinstance(error, DeclinedError):
        return "declined"
    return "retryable" if isinstance(error, RetryableError) else "permanent"
