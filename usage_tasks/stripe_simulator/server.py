"""A threaded HTTP/1.1 server in one process: a thread a connection, kept alive, nothing left behind."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from usage_tasks.stripe_simulator.app import BODY_BYTES_MAX, dispatch
from usage_tasks.stripe_simulator.simulator import Settings, Simulator
from usage_tasks.stripe_simulator.wire import Reply, Request, encode

IDLE_SECONDS_MAX = 600.0
log = logging.getLogger(__name__)


class Handler(BaseHTTPRequestHandler):
    """Reads a request, asks the simulator, writes the reply in one packet."""

    protocol_version = "HTTP/1.1"
    server_version = "StripeSimulator"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS_MAX
    server: "Server"

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_DELETE = do_GET  # noqa: N815 - so are these

    def _answer(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            message = f"A request needs a Content-Length of at most {BODY_BYTES_MAX}."
            self._write(
                Reply(status=413, body=encode({"error": {"message": message, "type": "invalid_request_error"}}))
            )
            return
        path, _, query = self.path.partition("?")
        request = Request(
            method=self.command,
            path=unquote(path),
            query=query,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(length)),
        )
        reply = dispatch(self.server.simulator, request)
        self.server.simulator.pause(reply.pause_seconds)
        if reply.dropped:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._write(reply)

    def _write(self, reply: Reply) -> None:
        self.send_response(reply.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in reply.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        head = b"".join(self._headers_buffer)
        self._headers_buffer: list[bytes] = []
        self.wfile.write(head + b"\r\n" + reply.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
        log.debug(format, *args)


class Server(ThreadingHTTPServer):
    """Listens at once, so that its port is known; answers when `serve_forever` runs."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, simulator: Simulator, *, host: str, port: int) -> None:
        self.simulator = simulator
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"


@contextmanager
def serve(settings: Settings, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[Server]:
    """Run a simulator in threads of this process for as long as the block runs; port 0 takes a free one."""
    simulator = Simulator(settings)
    server = Server(simulator, host=host, port=port)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="stripe-simulator", daemon=True)
    simulator.start()
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        simulator.close()
