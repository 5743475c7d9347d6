"""Somebody in the Pi's place, with a certificate that is not the Pi's."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from farm_processes import Farm, eventually, free_port, make_certificate

from changelog.node.settings import Settings


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


@contextmanager
def showing(certificate: Path, key: Path, *arguments: str) -> Iterator[Settings]:
    """Somebody who shows this certificate, and the settings of a server that connects there; PI_CERT is to be filled in."""
    port = free_port()
    command = ["openssl", "s_server", "-accept", str(port), "-cert", str(certificate), "-key", str(key), "-www", "-quiet", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        eventually(listens)
        yield Settings(data_dir=certificate.parent, remote_pi_host="127.0.0.1", remote_pi_port=port, pi_api_key="hxb_secret_of_the_farm")
    finally:
        process.kill()
        process.wait()
