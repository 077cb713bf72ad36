"""The routes below /_simulator/: the clock, the deliveries and the health, as JSON and without authentication."""

import json
from collections.abc import Callable
from typing import Any

from usage_tasks.stripe_simulator.billing import can_advance
from usage_tasks.stripe_simulator.simulator import Simulator
from usage_tasks.stripe_simulator.wire import JsonObject, Reply, Request, encode

PREFIX = "/_simulator/"


def answer(simulator: Simulator, request: Request) -> Reply:
    """Answer a request to an admin route; anything unknown is a 404 that names it."""
    route = _ROUTES.get((request.method, request.path))
    if route is None:
        return _refuse(f"No such admin route: {request.method} {request.path}", status=404)
    return route(simulator, request)


def _health(_simulator: Simulator, _request: Request) -> Reply:
    return _reply({"status": "ok"})


def _show_clock(simulator: Simulator, _request: Request) -> Reply:
    with simulator.world() as world:
        return _reply({"now": world.now(), "frozen": simulator.frozen})


def _advance_clock(simulator: Simulator, request: Request) -> Reply:
    """Do everything that is due until the given time; an earlier time changes nothing."""
    until = _argument(request, "advance_to")
    if not isinstance(until, int) or isinstance(until, bool):
        return _refuse("advance_to must be a Unix time, as an integer.")
    if not simulator.frozen:
        return _refuse("The simulator follows the real clock: start it with --frozen-time to advance it.")
    with simulator.world() as world:
        if not can_advance(world.now(), until):
            return _refuse("advance_to is too far ahead.")
    return _reply({"now": simulator.advance(until), "frozen": True})


def _deliveries(simulator: Simulator, _request: Request) -> Reply:
    return _reply(simulator.courier.summary())


def _replay(simulator: Simulator, request: Request) -> Reply:
    event = _argument(request, "event")
    if not isinstance(event, str) or not simulator.courier.replay(event):
        return _refuse(f"No such event, or no webhook URL: {event}", status=404)
    return _reply({"event": event, "queued": True})


def _argument(request: Request, name: str) -> Any:
    try:
        body = json.loads(request.body or b"{}")
    except ValueError:
        return None
    return body.get(name) if isinstance(body, dict) else None


def _reply(body: JsonObject, *, status: int = 200) -> Reply:
    return Reply(status=status, body=encode(body))


def _refuse(message: str, *, status: int = 400) -> Reply:
    return _reply({"error": {"message": message}}, status=status)


_ROUTES: dict[tuple[str, str], Callable[[Simulator, Request], Reply]] = {
    ("GET", f"{PREFIX}health"): _health,
    ("GET", f"{PREFIX}clock"): _show_clock,
    ("POST", f"{PREFIX}clock"): _advance_clock,
    ("GET", f"{PREFIX}deliveries"): _deliveries,
    ("POST", f"{PREFIX}deliveries/replay"): _replay,
}
