"""`python -m usage_tasks.stripe_simulator`: the simulator in the foreground, in one process."""

import argparse
import logging
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

from usage_tasks.stripe_simulator.http.server import serve
from usage_tasks.stripe_simulator.simulator import Settings

log = logging.getLogger("usage_tasks.stripe_simulator")


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    arguments = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    settings = Settings(
        state=":memory:" if arguments.state is None else str(arguments.state),
        frozen_time=arguments.frozen_time,
        webhook_url=arguments.webhook_url,
        webhook_secret=arguments.webhook_secret or "",
        thin_webhook_url=arguments.thin_webhook_url,
        thin_webhook_secret=arguments.thin_webhook_secret or "",
        search_lag_seconds=arguments.search_lag_seconds,
    )
    with serve(settings, host=arguments.host, port=arguments.port) as server:
        log.info("listening on %s", server.url)
        stopped.wait()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m usage_tasks.stripe_simulator", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port to listen on; 0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="default: reachable from this machine only")
    parser.add_argument("--state", type=Path, help="SQLite file to keep the state in; default: memory")
    parser.add_argument("--frozen-time", type=_unix, help="ISO 8601: a clock that stands still until it is advanced")
    parser.add_argument("--webhook-url", help="where each event is sent")
    parser.add_argument("--webhook-secret", help="signing secret, whsec_...")
    parser.add_argument("--thin-webhook-url", help="where each thin event is notified")
    parser.add_argument("--thin-webhook-secret", help="default: the same as --webhook-secret")
    parser.add_argument(
        "--search-lag-seconds", type=int, default=0, help="how long search doesn't find a new customer; default 0"
    )
    return parser


def _unix(text: str) -> int:
    """A moment in ISO 8601; without an offset it is UTC."""
    moment = datetime.fromisoformat(text)
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


if __name__ == "__main__":
    main()
