"""A threaded HTTP/1.1 server in one process: a thread a connection, kept alive, nothing left behind."""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

from usage_tasks.stripe_simulator.http.app import BODY_BYTES_MAX, dispatch
from usage_tasks.stripe_simulator.simulator import Settings, Simulator
from usage_tasks.stripe_simulator.wire.wire import Reply, Request, encode

IDLE_SECONDS_MAX = 600.0
HEADERS_MAX = 100
LINE_BYTES_MAX = 65536
POLL_SECONDS = 0.01
"""How soon the end of `serve` is noticed; the tests start and end hundreds of them."""
log = logging.getLogger(__name__)


class Handler(BaseHTTPRequestHandler):
    """Reads a request, asks the simulator, writes the reply in one packet.

    The base class reads headers with the parser of e-mails, which takes longer than the simulator's own work.
    """

    protocol_version = "HTTP/1.1"
    server_version = "StripeSimulator"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS_MAX
    server: "Server"
    raw_requestline: bytes

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_DELETE = do_GET  # noqa: N815 - so are these

    def parse_request(self) -> bool:
        """Read the request line and the headers; a repeated header counts as its last one."""
        words = self.raw_requestline.decode("latin-1").split()
        self.close_connection, self.requestline = True, " ".join(words)
        self.command, self.request_version = "", "HTTP/1.1"
        if len(words) != 3 or not words[2].startswith("HTTP/1."):  # noqa: PLR2004 - method, path, version
            self.send_error(HTTPStatus.BAD_REQUEST)
            return False
        self.command, self.path, self.request_version = words
        self.fields: dict[str, str] = {}
        for _ in range(HEADERS_MAX):
            line = self.rfile.readline(LINE_BYTES_MAX)
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon:
                break
            self.fields[name.lower()] = value.strip()
        if line not in {b"\r\n", b"\n"}:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return False
        asked = self.fields.get("connection", "").lower()
        self.close_connection = asked == "close" or self.request_version != "HTTP/1.1"
        if self.fields.get("expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _answer(self) -> None:
        length = self.fields.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX or "transfer-encoding" in self.fields:
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
            headers=self.fields,
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
        lines = [
            f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
            "Content-Type: application/json",
            f"Content-Length: {len(reply.body)}",
            *(f"{name}: {value}" for name, value in reply.headers),
        ]
        if self.close_connection:
            lines.append("Connection: close")
        self.wfile.write("\r\n".join((*lines, "", "")).encode("latin-1") + reply.body)

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
    thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), name="stripe-simulator", daemon=True)
    simulator.start()
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        simulator.close()
