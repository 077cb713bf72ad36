"""A tiny HTTP server with the answers that a test gives it, for behaviour that the simulator never shows."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]


@dataclass(slots=True)
class Canned:
    """The received requests, and the server's URL."""

    url: str = ""
    asked: list[str] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)


def error(message: str = "no", *, kind: str = "invalid_request_error", code: str | None = None) -> dict[str, Any]:
    """An error's body as Stripe writes it."""
    return {"error": {"type": kind, "message": message, **({} if code is None else {"code": code})}}


@contextmanager
def answering(answer: Callable[[str], Answer] | Answer, headers: Mapping[str, str] | None = None) -> Iterator[Canned]:
    """Answer every request with one answer, or with the result of a function of its path; text is sent unchanged."""
    canned = Canned()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # the client keeps its connection, as it does at Stripe
        wbufsize = -1  # headers and body are sent together
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            canned.asked.append(self.path)
            canned.authorized.append(self.headers.get("Authorization"))
            status, body = answer(self.path) if callable(answer) else answer
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Request-Id": "req_canned", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - the name is the base class's

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    canned.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield canned
    finally:
        server.shutdown()
        server.server_close()
