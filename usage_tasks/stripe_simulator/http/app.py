"""The simulator as a WSGI application, for any server that can run one."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING

from usage_tasks.stripe_simulator.http import admin
from usage_tasks.stripe_simulator.simulator import Simulator
from usage_tasks.stripe_simulator.wire.wire import Reply, Request

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

BODY_BYTES_MAX = 1 << 20


def make_app(simulator: Simulator) -> "WSGIApplication":
    """Wrap a simulator; starting and closing it stays with the caller."""

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        reply = dispatch(simulator, _request(environ))
        simulator.pause(reply.pause_seconds)
        if reply.dropped:
            # WSGI has no word for it: what the client sees is what this server does when an application fails.
            raise ConnectionAbortedError("a fault was injected: no reply")
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(reply.body))), *reply.headers]
        start_response(f"{reply.status} {HTTPStatus(reply.status).phrase}", headers)
        return [reply.body]

    return app


def dispatch(simulator: Simulator, request: Request) -> Reply:
    if request.path.startswith(admin.PREFIX):
        return admin.answer(simulator, request)
    return simulator.answer(request)


def _request(environ: "WSGIEnvironment") -> Request:
    length = min(int(environ.get("CONTENT_LENGTH") or 0), BODY_BYTES_MAX)
    names = {name: name[5:].replace("_", "-").lower() for name in environ if name.startswith("HTTP_")}
    return Request(
        method=environ["REQUEST_METHOD"],
        path=environ.get("PATH_INFO", ""),
        query=environ.get("QUERY_STRING", ""),
        headers={header: str(environ[name]) for name, header in names.items()},
        body=environ["wsgi.input"].read(length),
    )
