"""The routes below /_simulator/: clock, deliveries, faults, switches, banks; as JSON and without authentication."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from usage_tasks.stripe_simulator.bank import disputing, payments
from usage_tasks.stripe_simulator.simulator import Simulator
from usage_tasks.stripe_simulator.state.switches import checked
from usage_tasks.stripe_simulator.state.world import World
from usage_tasks.stripe_simulator.time import collecting
from usage_tasks.stripe_simulator.time.billing import can_advance
from usage_tasks.stripe_simulator.wire.errors import ApiError
from usage_tasks.stripe_simulator.wire.wire import JsonObject, Reply, Request, encode

PREFIX = "/_simulator/"


def answer(simulator: Simulator, request: Request) -> Reply:
    """Return a request to an admin route; anything unknown is a 404 that names it."""
    route = _ROUTES.get((request.method, request.path))
    if route is None:
        return _refuse(f"No such admin route: {request.method} {request.path}", status=404)
    try:
        return route(simulator, request)
    except ValueError as error:
        return _refuse(str(error))


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


def _show_faults(simulator: Simulator, _request: Request) -> Reply:
    return _reply(simulator.faults.summary())


def _add_fault(simulator: Simulator, request: Request) -> Reply:
    return _reply(simulator.faults.add(_body(request)))


def _remove_faults(simulator: Simulator, request: Request) -> Reply:
    """One rule by its id; without one all rules, and the record with them."""
    rule = _argument(request, "rule")
    if not simulator.faults.remove(rule):
        return _refuse(f"No such rule: {rule}", status=404)
    return _show_faults(simulator, request)


def _show_mail(simulator: Simulator, _request: Request) -> Reply:
    return _reply(asdict(simulator.switches.mail))


def _change_mail(simulator: Simulator, request: Request) -> Reply:
    simulator.courier.change(checked(simulator.switches.mail, _body(request)))
    return _show_mail(simulator, request)


def _show_metering(simulator: Simulator, _request: Request) -> Reply:
    return _reply(asdict(simulator.switches.metering))


def _change_metering(simulator: Simulator, request: Request) -> Reply:
    with simulator.store.transaction():
        simulator.switches.metering = checked(simulator.switches.metering, _body(request))
    return _show_metering(simulator, request)


def _show_searching(simulator: Simulator, _request: Request) -> Reply:
    return _reply(asdict(simulator.switches.searching))


def _change_searching(simulator: Simulator, request: Request) -> Reply:
    with simulator.store.transaction():
        simulator.switches.searching = checked(simulator.switches.searching, _body(request))
    return _show_searching(simulator, request)


def _act(simulator: Simulator, request: Request, kind: str, act: Callable[[World, Any, Any, int], Any]) -> Reply:
    """Let something happen to an object that a body names, as its customer or a bank would."""
    body = _body(request)
    identifier = body.get(kind) if isinstance(body, dict) else None
    try:
        with simulator.world() as world:
            subject = world.get(kind, str(identifier))
            return _reply(act(world, subject, body, world.now(payments.clock_of(world, _payer(world, subject)))))
    except ApiError as error:
        return _refuse(str(error), status=error.status)


def _payer(world: World, subject: JsonObject) -> JsonObject:
    return subject if "customer" in subject else world.get("charge", subject["charge"])


def _open_dispute(simulator: Simulator, request: Request) -> Reply:
    """`charge`, and optionally `reason` and `inquiry`: the cardholder disputes it."""

    def act(world: World, charge: JsonObject, body: JsonObject, at: int) -> JsonObject:
        reason, inquiry = str(body.get("reason", "fraudulent")), bool(body.get("inquiry"))
        return disputing.open_dispute(world, charge, reason=reason, inquiry=inquiry, at=at)

    return _act(simulator, request, "charge", act)


def _step_dispute(simulator: Simulator, request: Request) -> Reply:
    """`dispute` and a `step`: what the merchant does, or the bank decides."""
    name = _argument(request, "step")
    if name not in disputing.STEPS:
        return _refuse(f"step must be one of {', '.join(disputing.STEPS)}.")
    return _act(
        simulator, request, "dispute", lambda world, dispute, _body, at: disputing.step(world, dispute, name, at=at)
    )


def _authenticate(simulator: Simulator, request: Request) -> Reply:
    """`payment_intent` and `succeeds` (true): what the customer does when the bank asks for them."""

    def act(world: World, intent: JsonObject, body: JsonObject, at: int) -> JsonObject:
        done = payments.authenticate(world, intent, succeeds=bool(body.get("succeeds", True)), at=at)
        collecting.authenticated(world, done, at=at)
        return done

    return _act(simulator, request, "payment_intent", act)


def _body(request: Request) -> Any:
    try:
        return json.loads(request.body or b"{}")
    except ValueError:
        return None


def _argument(request: Request, name: str) -> Any:
    body = _body(request)
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
    ("POST", f"{PREFIX}disputes"): _open_dispute,
    ("POST", f"{PREFIX}disputes/step"): _step_dispute,
    ("POST", f"{PREFIX}payments/authenticate"): _authenticate,
    ("GET", f"{PREFIX}faults"): _show_faults,
    ("POST", f"{PREFIX}faults"): _add_fault,
    ("DELETE", f"{PREFIX}faults"): _remove_faults,
    ("GET", f"{PREFIX}webhooks"): _show_mail,
    ("POST", f"{PREFIX}webhooks"): _change_mail,
    ("GET", f"{PREFIX}meters"): _show_metering,
    ("POST", f"{PREFIX}meters"): _change_metering,
    ("GET", f"{PREFIX}search"): _show_searching,
    ("POST", f"{PREFIX}search"): _change_searching,
}
