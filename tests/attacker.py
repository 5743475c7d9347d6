"""Somebody in the Pi's place, with a certificate that is not the Pi's."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from farm_processes import Farm, make_certificate


class Attacker:
    """Stands in the Pi's place with a certificate of his own, and keeps whatever a client tells him."""

    def __init__(self, certificate: Path, key: Path, port: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.heard = b""  # after a handshake
        self.broken_off = 0  # handshakes that the client did not finish
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                raw, _ = self._listener.accept()
            except OSError:
                return
            with raw:
                raw.settimeout(5)
                try:
                    with self._context.wrap_socket(raw, server_side=True) as client:
                        self.heard += client.recv(4096)
                except OSError:
                    self.broken_off += 1


@contextmanager
def attacking(farm: Farm, folder: Path) -> Iterator[Attacker]:
    """Somebody answers on the Pi's port with another certificate of the same name."""
    make_certificate(folder, "attacker")
    attacker = Attacker(folder / "attacker-cert.pem", folder / "attacker-key.pem", farm.pi.settings["PI_PORT"])
    try:
        yield attacker
    finally:
        attacker.close()
