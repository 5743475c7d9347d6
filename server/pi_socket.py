"""One WebSocket to the Pi, by python-socketio, within bounds of ours: whom it trusts, how long it waits, how much it takes."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import engineio  # type: ignore[import-untyped]
import socketio  # type: ignore[import-untyped]
import websocket
from engineio import base_client

from changelog.errors import Unreachable
from changelog.node.settings import Settings
from server.pinned import innermost, why_unreachable

STEP_TIMEOUT = 5.0  # s for each step of connecting
DEAD_AFTER = 12.0  # s without a byte: the Pi pings every 5 s
LARGEST_MESSAGE = 4 * 2**20  # bytes; a longer one ends the connection before it fills the memory
LARGEST_CONTROL = 125  # bytes of a ping, pong or close: the protocol's own limit
END_TIMEOUT = 1.0  # s
LONGEST_REASON = 200  # characters of the Pi's own words

_quiet = logging.getLogger(f"{__name__}.library")  # the libraries log each attempt, with a traceback; `push_client` says each change
_quiet.setLevel(logging.CRITICAL + 1)
logging.getLogger("websocket").setLevel(logging.CRITICAL)


class PiSocket(socketio.Client):
    """One connection, used once. `ended` is set when it is over."""

    _binary_packet: Any

    def __init__(
        self, settings: Settings, context: ssl.SSLContext | None, received: Callable[[object], object], malformed: Callable[[], object]
    ) -> None:
        """`context`: whom to trust, None without TLS.

        `received` is given the argument of each `changelog` event, `malformed` called for what is no message at all, both in the thread
        that reads.
        """
        super().__init__(
            reconnection=False,
            handle_sigint=False,
            logger=_quiet,
            engineio_logger=_quiet,
            request_timeout=STEP_TIMEOUT,
            timestamp_requests=False,
            websocket_extra_options=_options(context),
        )
        self.ended = threading.Event()
        self._settings, self._malformed = settings, malformed
        self._refusal = ""
        self.eio.on("disconnect", self._over)
        self.on("changelog", lambda argument=None, *more: received(argument))

    def open(self, headers: dict[str, str]) -> None:
        """Connect. Raises Unreachable with the fact `state`: "unreachable", "untrusted", "no socket" or "refused"."""
        scheme = "https" if self._settings.use_ssl_for_pi else "http"
        url = f"{scheme}://{self._settings.pi_address}"
        try:
            self.connect(url, headers=dict(headers), transports=["websocket"], wait_timeout=STEP_TIMEOUT)
        except socketio.exceptions.ConnectionError as exc:
            raise self._failure(innermost(exc)) from exc

    def hang_up(self) -> None:
        """Close it at once, whatever state it is in."""
        self.ended.set()
        self.eio.state = "disconnected"
        self.eio.queue.put(None)  # ends the writing thread; the reading one meets a closed socket
        if self.eio.ws is not None:
            self.eio.ws.close()
            self.eio.read_loop_task.join(END_TIMEOUT)
            self.eio.ws.shutdown()
        with suppress(ValueError):
            base_client.connected_clients.remove(self.eio)

    def _failure(self, cause: BaseException) -> Unreachable:
        host = self._settings.pi_address
        if self._refusal:
            return Unreachable(f"{host} refuses it: {self._refusal}", state="refused")
        if isinstance(cause, websocket.WebSocketBadStatusException):
            words = f"{host}, or a proxy before it, answers with HTTP {cause.status_code} instead of a WebSocket"
            return Unreachable(words, state="no socket")
        if isinstance(cause, OSError):
            words = why_unreachable(cause, self._settings)
            return Unreachable(words, state="untrusted" if "certificate" in words or "TLS" in words else "unreachable")
        return Unreachable(f"{host} does not answer as a WebSocket does: {_printable(str(cause))}", state="no socket")

    def _over(self, reason: str) -> None:
        self.ended.set()
        self._handle_eio_disconnect(reason)

    def _handle_error(self, namespace: str, data: Any) -> None:
        message = data.get("message") if isinstance(data, dict) else data
        self._refusal = _printable(str(message or "without a reason"))
        super()._handle_error(namespace, data)

    def _handle_eio_message(self, data: Any) -> None:
        try:
            super()._handle_eio_message(data)
            if self._binary_packet is not None and self._binary_packet.attachment_count > 1:
                raise ValueError("one frame is all that we expect")
        except Exception:  # whatever a stranger may send
            self._binary_packet = None
            self._malformed()

    def _handle_disconnect(self, namespace: str) -> None:
        self.ended.set()  # the library would wait, in the thread that reads, for the end of that thread

    def _engineio_client_class(self) -> Any:
        return _InOrder


class _InOrder(engineio.Client):
    """Handles messages in the thread that reads them: the library starts one for each, in which a frame may overtake what belongs to it."""

    def _trigger_event(self, event: str, *args: Any, **kwargs: Any) -> Any:
        return super()._trigger_event(event, *args, **{**kwargs, "run_async": False})


class _WebSocket(websocket.WebSocket):
    """Bounded in time and size, whatever the other side wants, and safe for the library's two threads.

    TLS must not be used by two threads at once, and never once its file descriptor is given back: the next file that this process opens
    gets the same number, and what a thread still writes goes into that file, which may be a database. So each use is short and under a
    lock, and waiting is done outside of it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.frame_buffer = _BoundedBuffer(self._recv, kwargs.get("skip_utf8_validation", False))
        self._using = threading.Lock()
        self._patience = STEP_TIMEOUT

    def settimeout(self, timeout: float | None) -> None:
        """Never longer than we are ready to wait."""
        self._patience = min(DEAD_AFTER, timeout or DEAD_AFTER)

    def close(self, *_args: Any, **_kwargs: Any) -> None:
        """End the connection at once, whoever reads or writes; the library would wait for the other side to agree."""
        with self._using:
            if self.sock is not None:
                with suppress(OSError):
                    socket.socket.shutdown(self.sock, socket.SHUT_RDWR)  # beneath TLS, whose state is that of the threads
            self.connected = False

    def shutdown(self) -> None:
        """Give the file descriptor back."""
        with self._using:
            if self.sock is not None:
                self.sock.close()
            self.sock, self.connected = None, False

    def _recv(self, size: int) -> bytes:
        try:
            piece = self._use(lambda sock: sock.recv(size), select.POLLIN)
        except TimeoutError as exc:
            raise websocket.WebSocketTimeoutException("nothing came") from exc
        if not piece:
            raise websocket.WebSocketConnectionClosedException("the other side has gone")
        return piece

    def _send(self, data: Any) -> int:
        return self._use(lambda sock: sock.send(data), select.POLLOUT)

    def _use(self, act: Callable[[Any], Any], ready: int) -> Any:
        """What `act` returns as soon as it need not wait. Raises TimeoutError, and other OSErrors when the connection is over."""
        until = time.monotonic() + self._patience
        while True:
            with self._using:
                if self.sock is None:
                    raise BrokenPipeError("the connection was ended")
                self.sock.settimeout(0)
                try:
                    return act(self.sock)
                except ssl.SSLWantReadError:
                    wanted = select.POLLIN
                except ssl.SSLWantWriteError:
                    wanted = select.POLLOUT
                except BlockingIOError:
                    wanted = ready
                poller = select.poll()
                poller.register(self.sock, wanted)
            left = until - time.monotonic()
            if left <= 0 or not poller.poll(left * 1000):  # were the descriptor given back meanwhile, this may only end too early
                raise TimeoutError


class _BoundedBuffer(websocket._abnf.frame_buffer):
    """Refuses a message when its length is told, before it is read."""

    _size = 0  # of the parts of a message so far

    def recv_length(self) -> None:
        super().recv_length()
        assert self.header is not None and self.length is not None
        final, control = self.header[0], self.header[4] >= websocket.ABNF.OPCODE_CLOSE
        size = self.length if control else self._size + self.length
        if size > (LARGEST_CONTROL if control else LARGEST_MESSAGE):
            raise websocket.WebSocketException(f"a message of {size} bytes or more")
        if not control:
            self._size = 0 if final else size


def _options(context: ssl.SSLContext | None) -> dict[str, Any]:
    options: dict[str, Any] = {
        "class_": _WebSocket,
        "redirect_limit": 0,  # the key goes to the Pi, and to nobody that it names
        "http_no_proxy": ["*"],  # nor to a proxy that the environment names
        "suppress_origin": True,  # we are no page
    }
    return options | ({"sslopt": {"context": context}} if context is not None else {})


def _printable(text: str) -> str:
    """Somebody else's words, on one line of the log."""
    return "".join(char if char.isprintable() else "?" for char in text[:LONGEST_REASON])
