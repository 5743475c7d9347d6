"""What a rude client says on a WebSocket: cases by kind, each made from a random number, for scripts/fuzz_sockets.py."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

ENGINE = b"/socket.io/?EIO=4&transport=websocket"
UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
TEXT, BINARY, CLOSE, PING, PONG, CONTINUED = 1, 2, 8, 9, 10, 0
GREETING = b"40"
SHORT = 0.3  # s that a case stays to hear what it gets
DRIP = 0.005  # s between two bytes of a slow one
MOST = 1 << 21  # bytes that a flood has, twice of what a client may say
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends a reset at once

PACKETS = (  # of Engine.IO, or not
    "", "x", "b", "b%%%", "bAAA", "bNA==", "7", "9{", "\u0664", "\u00b2", "-1", " 4", "0", '0{"sid":1}', "1", "1x", "2probe", "3probe", "5",
    "6", "4", "44", "4" + "[" * 2_000, "4" + "9" * 5_000, "4" + '{"a":' * 1_500, "4NaN", "4null", "4" + "[" * 100_000, "333", "\0",
)  # fmt: skip
VALUES = (  # of Socket.IO, or not
    "null", "true", "1", "-1.5", '"x"', "[]", "{}", "[[]]", "[null]", "[1,2]", '{"_placeholder":true,"num":5}', '["connect"]',
    '["disconnect",1]', "[{}]", '["message","x"]', '["json",{}]', '["connect",{"sid":"x"}]', '["*",1]', '["__class__"]', '[["a"]]',
    '["changelog",{"frame":null}]', "NaN", "[" * 900 + "]" * 900, '["a",' + "[" * 60_000, "1e999", "",
)  # fmt: skip
COUNTS = ("", "", "", "1-", "0-", "99-", "1234567890-", "99999999999-", "-")  # of attachments
NAMESPACES = ("", "", "", "/,", "/x,", "/x?a=b,", "/", "/" + "y" * 1_000 + ",", "/\u00e4,")
NUMBERS = ("", "", "", "0", "12", "\u00b2", "9" * 99, "9" * 200)  # of a packet that wants an answer
LINES = (  # of a head
    b"X: y", b"Upgrade: h2c", b"Connection: close", b"Sec-WebSocket-Version: 12", b"Content-Length: 5", b"Content-Length: -1",
    b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Sec-WebSocket-Protocol: a, b", b"Sec-WebSocket-Protocol: ,,",
    b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99", b"Sec-WebSocket-Extensions: ;;=", b"X-API-Key: hxb_wrong",
    b"X-Replica-Id: ", b"X-Replica-Id: \xe4", b"X-Replica-Id: " + b"x" * 7_000, b"Cookie: session=abc.def.ghi", b"Origin: http://elsewhere",
    *(b"Sec-WebSocket-Key: " + key for key in (b"", b"x", b"=" * 24, b"A" * 22, b"A" * 23 + b"=", b"\xff" * 24, b"A" * 8_000, b"A A")),
)  # fmt: skip
PATHS = (b"/socket.io/", b"/socket.io/?EIO=4", b"/socket.io/?EIO=x&transport=websocket", b"/socket.io", b"//socket.io/")
QUERIES = (b"", b"&sid=x", b"&sid=", b"&j=1", b"&transport=polling", b"%00", b"&EIO=4", b"/../")

Ending = Literal["reset", "shut", "stay", "go"]


@dataclass(frozen=True)
class Case:
    """What is said: the head of the request (the good one if None), then, perhaps once greeted, these pieces."""

    pieces: tuple[bytes, ...]
    ending: Ending = "go"
    head: bytes | None = None  # with {} where the lines stand that name the host and let in
    let_in: bool = True
    greet: bool = True
    at_once: bool = False  # head and pieces in one go, with no look at an answer
    beneath: bool = False  # the pieces go under TLS, where there is any
    drip: bool = False  # byte by byte


class Rude:
    """A client that says a case."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def say(self, case: Case, head: bytes) -> None:
        """Say it. Raises OSError when the other side has enough."""
        request = head + b"\r\n".join((*UPGRADE, b"", b"")) if case.head is None else case.head.replace(b"{}", head)
        if case.at_once:
            self._sock.sendall(request + b"".join(case.pieces))
        else:
            self._sock.sendall(request)
            if b"HTTP/1.1 101" not in self._sock.recv(4096):
                return
            if case.greet:
                self._sock.sendall(frame(GREETING))
                self._sock.recv(4096)
            for piece in case.pieces:
                self._send(piece, case)
        self._end(case.ending)

    def close(self) -> None:
        """Give the connection back."""
        self._sock.close()

    def _send(self, piece: bytes, case: Case) -> None:
        send = (lambda data: socket.socket.sendall(self._sock, data)) if case.beneath else self._sock.sendall
        if not case.drip:
            send(piece)
            return
        for place in range(min(len(piece), 40)):
            send(piece[place : place + 1])
            time.sleep(DRIP)

    def _end(self, ending: Ending) -> None:
        if ending == "reset":
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif ending == "shut":
            socket.socket.shutdown(self._sock, socket.SHUT_WR)
            self._hear(SHORT)
        elif ending == "stay":
            self._hear(SHORT)

    def _hear(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        with suppress(TimeoutError):
            while time.monotonic() < until:
                self._sock.settimeout(max(0.01, until - time.monotonic()))
                if not self._sock.recv(65_536):
                    return


def frame(
    payload: bytes, kind: int = TEXT, *, fin: bool = True, reserved: int = 0, masked: bool = True, size: int = -1, form: int = 0
) -> bytes:
    """One frame; `size` is the length that it tells, `form` by how many bytes (0: the right ones)."""
    size = len(payload) if size < 0 else size
    form = form or (1 if size < 126 else 3 if size < 1 << 16 else 9)
    first, bit = fin << 7 | reserved << 4 | kind, masked << 7
    told = {1: struct.pack("!B", bit | size & 127), 3: struct.pack("!BH", bit | 126, size & 0xFFFF), 9: struct.pack("!BQ", bit | 127, size)}
    mask = os.urandom(4) if masked else b""
    if mask:
        payload = bytes(each ^ mask[place & 3] for place, each in enumerate(payload)) if len(payload) < 4_096 else _masked(payload, mask)
    return bytes([first]) + told[form] + mask + payload


def _masked(payload: bytes, mask: bytes) -> bytes:
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(len(payload))


def _text(chance: random.Random) -> bytes:
    """A packet of Socket.IO, mostly a good one."""
    return chance.choice((b"3", b"2", b'42["hello",1]', b'42["x",{"a":[1,2]}]', b"2probe", b"41", b"6"))


def _ending(chance: random.Random) -> Ending:
    return chance.choice(("reset", "shut", "stay", "go", "go"))


def _let_in(chance: random.Random) -> bool:
    return chance.random() < 0.85


def _said(chance: random.Random, *pieces: bytes) -> Case:
    """These pieces after a good beginning, or in the place of the greeting."""
    return Case(pieces, _ending(chance), let_in=_let_in(chance), greet=chance.random() < 0.8)


def opcodes(chance: random.Random) -> Case:
    kind = chance.choice((3, 4, 5, 6, 7, 11, 12, 13, 14, 15))
    return _said(chance, frame(_text(chance), kind, fin=chance.random() < 0.7), frame(_text(chance)))


def masks(chance: random.Random) -> Case:
    return _said(chance, *(frame(_text(chance), chance.choice((TEXT, PING, CLOSE)), masked=chance.random() < 0.3) for _ in range(3)))


def reserved(chance: random.Random) -> Case:
    return _said(chance, frame(chance.randbytes(50), chance.choice((TEXT, BINARY, PING, CLOSE)), reserved=chance.randint(1, 7)))


def control(chance: random.Random) -> Case:
    kind = chance.choice((CLOSE, PING, PONG))
    long = frame(chance.randbytes(chance.choice((126, 200, 65_536))), kind)
    short = frame(chance.randbytes(chance.randint(0, 125)), kind, fin=False)
    in_between = frame(b"42[", fin=False) + frame(chance.randbytes(10), PING) + frame(b'"x"]', CONTINUED)
    return _said(chance, chance.choice((long, short, in_between, b"".join(frame(b"", PING) for _ in range(chance.randint(1, 500))))))


def fragments(chance: random.Random) -> Case:
    many = [frame(chance.randbytes(chance.choice((0, 0, 1, 30))), BINARY, fin=False)]
    many += [frame(chance.randbytes(chance.choice((0, 0, 1, 30))), CONTINUED, fin=False) for _ in range(chance.randint(1, 1_500))]
    good = [frame(b'42["x', fin=False), frame("äöü".encode()[:3], CONTINUED, fin=False), frame("äöü".encode()[3:] + b'"]', CONTINUED)]
    second = [frame(b'42["', fin=False), frame(b'x"]', chance.choice((TEXT, BINARY)))]
    last = [frame(b"", CONTINUED)] if chance.random() < 0.5 else []
    return _said(chance, b"".join(chance.choice((many + last, good, second, [frame(b"3", CONTINUED)]))))


def lengths(chance: random.Random) -> Case:
    size, form = chance.choice(
        ((1, 3), (1, 9), (125, 3), (65_535, 9), (1 << 31, 9), (1 << 40, 9), ((1 << 63) - 1, 9), (1 << 63, 9), (126, 3))
    )
    kind = chance.choice((TEXT, BINARY, CONTINUED, PING, CLOSE))
    return _said(chance, frame(chance.randbytes(chance.choice((0, 5, 5_000))), kind, size=size, form=form), frame(_text(chance)))


def utf8(chance: random.Random) -> Case:
    wrong = chance.choice(
        (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xb8", b"\x80", b"\xf8\x88\x80\x80\x80", b"\0")
    )
    place = chance.randint(0, 3)
    text = b'42["' + wrong + b'"]' if chance.random() < 0.5 else wrong
    broken = frame(text[:place], fin=False) + frame(text[place:], CONTINUED)
    return _said(chance, chance.choice((frame(text), broken, frame(struct.pack("!H", 1000) + wrong, CLOSE))))


def closes(chance: random.Random) -> Case:
    code = chance.choice((0, 999, 1000, 1004, 1005, 1006, 1012, 1015, 1100, 2999, 3000, 4999, 5000, 65_535))
    payload = chance.choice((struct.pack("!H", code), struct.pack("!H", code) + chance.randbytes(20), b"", b"\x03"))
    after = [frame(_text(chance), chance.choice((TEXT, CLOSE, PING))) for _ in range(chance.randint(0, 4))]
    return _said(chance, frame(payload, CLOSE) + b"".join(after) if chance.random() < 0.5 else frame(payload, CLOSE), *after)


def engine(chance: random.Random) -> Case:
    count = chance.randint(1, 4)
    return _said(chance, *(frame(chance.choice(PACKETS).encode(), chance.choice((TEXT, TEXT, TEXT, BINARY))) for _ in range(count)))


def socketio(chance: random.Random) -> Case:
    value = chance.choice(VALUES)
    value = chance.choice((value, value, value, value[:-1], value + "]"))
    parts = (chance.choice("0123456789"), chance.choice(COUNTS), chance.choice(NAMESPACES), chance.choice(NUMBERS), value)
    attached = [frame(chance.randbytes(10), BINARY) for _ in range(chance.randint(0, 3))]
    return _said(chance, frame(f"4{''.join(parts)}".encode()), *attached, *(frame(_text(chance)) for _ in range(2)))


def handshakes(chance: random.Random) -> Case:
    """A request for a socket with one line or two that are wrong, or only half of it; or one for a path beside ours."""
    lines = list(UPGRADE)
    for _ in range(chance.randint(1, 2)):
        wrong = chance.choice(LINES)
        if chance.random() < 0.5:
            lines[chance.randrange(len(lines))] = wrong
        else:
            lines.append(wrong)
    rest = b"\r\n".join((*lines, b"", b""))
    if chance.random() < 0.2:
        rest = rest[: -chance.randint(1, 60)]
    path = chance.choice(PATHS) + chance.choice(QUERIES) if chance.random() < 0.3 else None
    head = b"{}" + rest if path is None else b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n" + rest
    return Case((frame(GREETING), frame(_text(chance))), _ending(chance), head, let_in=_let_in(chance), at_once=True)


def noise(chance: random.Random) -> Case:
    return _said(chance, chance.randbytes(chance.choice((1, 2, 10, 300, 5_000))))


def damaged(chance: random.Random) -> Case:
    """A good talk with some bits wrong, pieces missing or twice."""
    talk = bytearray(b"".join(frame(_text(chance), chance.choice((TEXT, TEXT, PING, PONG))) for _ in range(10)))
    for _ in range(chance.randint(1, 3)):
        place, which = chance.randrange(len(talk)), chance.randrange(3)
        if which == 0:
            talk[place] ^= 1 << chance.randrange(8)
        elif which == 1:
            del talk[place : place + chance.randint(1, 8)]
        else:
            talk[place:place] = talk[place : place + chance.randint(1, 8)]
    return _said(chance, bytes(talk))


def beneath(chance: random.Random) -> Case:
    """What is no record of TLS in the middle of a TLS connection (noise in a socket where there is none)."""
    record = b"\x17\x03\x03" + struct.pack("!H", chance.choice((0, 5, 16_640, 65_535)))
    alert = b"\x15\x03\x03\x00\x02\x02\x28"
    again = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"
    return Case((chance.choice((chance.randbytes(50), record + chance.randbytes(40), alert, again)),), _ending(chance), beneath=True)


def halves(chance: random.Random) -> Case:
    whole = frame(b'42["' + b"x" * chance.choice((1, 200, 70_000)) + b'"]')
    return Case((whole[: chance.randrange(1, len(whole))],), _ending(chance), let_in=_let_in(chance), drip=chance.random() < 0.2)


def floods(chance: random.Random) -> Case:
    if chance.random() < 0.5:
        piece = b"".join(frame(_text(chance)) for _ in range(2_000))
        return _said(chance, *[piece] * chance.randint(1, 5))
    piece = frame(b'42["' + b"x" * 60_000 + b'"]')
    return _said(chance, *[piece] * (MOST // len(piece) if chance.random() < 0.3 else 5))


def early(chance: random.Random) -> Case:
    """Frames in one go with the request, before anybody said yes."""
    talk = tuple(frame(_text(chance)) for _ in range(3))
    return Case((frame(GREETING), *talk), _ending(chance), let_in=_let_in(chance), at_once=True)


CASES: dict[str, Callable[[random.Random], Case]] = {
    each.__name__: each
    for each in (
        opcodes, masks, reserved, control, fragments, lengths, utf8, closes, engine, socketio, handshakes, noise, damaged, beneath, halves,
        floods, early,
    )
}  # fmt: skip
