"""A network between a worker and what it works with, that can be cut or go silent: bytes stop, no connection ends."""

import socket
import threading
import time
from contextlib import suppress


class Wire:
    """Forwards a loopback port to another, while it is whole."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._whole = threading.Event()
        self._whole.set()
        self._silent = False
        self._delay_seconds = 0.0
        self._era = 0
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def retarget(self, port: int) -> None:
        """Forward what connects from now on to another port; what is open stays where it is."""
        self._target = port

    def cut(self) -> None:
        """Let nothing through."""
        self._whole.clear()

    def mend(self) -> None:
        """Let everything through, also what has been waiting."""
        self._whole.set()

    def silence(self) -> None:
        """Accept everything, forward nothing, and end no connection; what is open now never forwards again."""
        self._era += 1
        self._silent = True

    def speak(self) -> None:
        """Forward again what connects from now on."""
        self._era += 1
        self._silent = False

    def slow(self, seconds: float) -> None:
        """Keep each answer back for so long; 0 for no longer."""
        self._delay_seconds = seconds

    def forward(self, data: bytes) -> bytes:
        """Return what is passed on for these bytes: the same."""
        return data

    def close(self) -> None:
        """End it."""
        self._whole.set()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(near,), daemon=True).start()

    def _connect(self, near: socket.socket) -> None:
        self._whole.wait()
        era = self._era
        if self._silent:
            _swallow(near)
            return
        try:
            far = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        for pair, answers in (((near, far), False), ((far, near), True)):
            threading.Thread(target=self._pump, args=(*pair, era, answers), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, era: int, answers: bool) -> None:  # noqa: FBT001 - a thread's
        with suppress(OSError):
            while data := source.recv(65536):
                if answers and self._delay_seconds:
                    time.sleep(self._delay_seconds)
                self._whole.wait()
                if era == self._era:
                    target.sendall(self.forward(data))
        if era != self._era:  # an end is not forwarded either: the other side keeps a connection to nobody
            _swallow(target)
            return
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def _swallow(connection: socket.socket) -> None:
    """Take what comes until its sender ends."""
    with suppress(OSError):
        while connection.recv(65536):
            pass
    connection.close()
