"""A Redis behind TLS, and certificates made for a test with the command `openssl`."""

import select
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

_DAYS: Final = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """Files: a CA, another CA that signed nothing, and what the first one signed for a server and a client."""

    authority: Path
    stranger: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsServer:
    """Where the server is, with the files to connect to it."""

    port: int
    database: str
    certificates: Certificates

    def url(self, *, trusted: bool = True, host: str = "127.0.0.1", client: bool = True) -> str:
        """Return a URL as an operator writes it: nothing about verification."""
        authority = self.certificates.authority if trusted else self.certificates.stranger
        certificate, key = self.certificates.client
        ours = f"&ssl_certfile={certificate}&ssl_keyfile={key}" if client else ""
        return f"rediss://{host}:{self.port}/{self.database}?ssl_ca_certs={authority}{ours}"


def make_certificates(directory: Path) -> Certificates:
    """Make all of them. The server's is for 127.0.0.1 alone."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    authority, stranger = (_sign_itself(directory, name) for name in ("authority", "stranger"))
    server = _sign(directory, "server", "subjectAltName=IP:127.0.0.1")
    client = _sign(directory, "client", "extendedKeyUsage=clientAuth")
    return Certificates(authority=authority, stranger=stranger, server=server, client=client)


@contextmanager
def tls_before(redis_url: str, certificates: Certificates) -> Iterator[TlsServer]:
    """Speak TLS before a Redis, and want a certificate of the client. The embedded server is built without TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificates.server)
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    parts = urlsplit(redis_url)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        target = (parts.hostname or "127.0.0.1", parts.port or 6379)
        threading.Thread(target=_accept, args=(listening, context, target), daemon=True).start()
        yield TlsServer(port=listening.getsockname()[1], database=parts.path.strip("/"), certificates=certificates)


def _accept(listening: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    with suppress(OSError):  # closed: the end of the test
        while True:
            accepted, _ = listening.accept()
            threading.Thread(target=_serve, args=(accepted, context, target), daemon=True).start()


def _serve(accepted: socket.socket, context: ssl.SSLContext, target: tuple[str, int]) -> None:
    """Pass on what comes, in one thread: an SSLSocket is not to be read and written by two."""
    with (
        suppress(OSError),
        accepted,
        context.wrap_socket(accepted, server_side=True) as near,
        socket.create_connection(target) as far,
    ):
        while True:
            ready = [near] if near.pending() else select.select([near, far], [], [])[0]
            for one in ready:
                if not (received := one.recv(65_536)):
                    return
                (far if one is near else near).sendall(received)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def _sign_itself(directory: Path, name: str) -> Path:
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    made = ("-newkey", "rsa:2048", "-nodes", "-days", _DAYS, "-subj", f"/CN={name}")
    _openssl("req", "-x509", *made, "-keyout", key, "-out", certificate)
    return certificate


def _sign(directory: Path, name: str, extension: str) -> tuple[Path, Path]:
    certificate, key, request = (directory / f"{name}.{kind}" for kind in ("pem", "key", "csr"))
    extensions = directory / f"{name}.ext"
    extensions.write_text(f"{extension}\n")
    _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout", key, "-out", request)
    signer = ("-CA", directory / "authority.pem", "-CAkey", directory / "authority.key", "-CAcreateserial")
    _openssl("x509", "-req", "-in", request, *signer, "-days", _DAYS, "-extfile", extensions, "-out", certificate)
    return certificate, key
