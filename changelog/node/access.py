"""Who may call, how often, and with what: the loopback rule, the rate limit, and the checks of bodies and arguments."""

from __future__ import annotations

import ipaddress
import json
import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flask import Request

from changelog.errors import BadRequest, TooLarge, TooMany

MOST_DIGITS = 400  # of a whole number in JSON: more than any double has
CALLERS_REMEMBERED = 10_000  # callers that one rate limit remembers; the one seen longest ago is forgotten first

_FORWARDED = re.compile(r"forwarded|x-forwarded-.*|x-real-ip", re.IGNORECASE)  # what a proxy says of somebody behind it


def from_loopback(request: Request, trust: bool) -> bool:
    """Whether the caller is a program on this machine that talks to us directly, and `trust` (TRUST_LOOPBACK) lets that count."""
    if not trust or any(_FORWARDED.fullmatch(name) for name, _ in request.headers):
        return False
    try:
        peer = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return False
    # A socket bound to :: shows 127.0.0.1 as ::ffff:127.0.0.1, which is_loopback of an IPv6 address does not know.
    mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
    return (mapped or peer).is_loopback


class RateLimit:
    """A token bucket for each caller: `burst` calls at once, then `per_second` a second. In memory, for one process."""

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that never go back."""
        self.per_second = per_second
        self.burst = burst
        self.clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # caller: (calls left, at what time)
        self._lock = threading.Lock()

    def check(self, key: str) -> None:
        """Count one call of `key`; raises TooMany with `retry_after` (whole seconds) when none is left."""
        with self._lock:
            now = self.clock()
            left, at = self._buckets.pop(key, (self.burst, now))
            left = min(self.burst, left + (now - at) * self.per_second)
            self._buckets[key] = (left - 1 if left >= 1 else left, now)
            if len(self._buckets) > CALLERS_REMEMBERED:
                self._buckets.popitem(last=False)
        if left < 1:
            wait = math.ceil((1 - left) / self.per_second)
            raise TooMany(f"Too many requests: wait {wait} s and try again", retry_after=wait)


def json_body(request: Request, limit_bytes: int) -> dict[str, Any]:
    """The JSON object that the request carries.

    Raises TooLarge over `limit_bytes` (without reading the rest), BadRequest for anything that is not one plain JSON object.
    """
    if (request.content_length or 0) > limit_bytes:
        raise TooLarge(f"The body may have {limit_bytes} bytes, this one has {request.content_length}")
    body = request.stream.read(limit_bytes + 1)
    if len(body) > limit_bytes:
        raise TooLarge(f"The body may have {limit_bytes} bytes, this one has more")
    if not request.is_json:
        raise BadRequest("Send a JSON object, with the header Content-Type: application/json")
    try:
        value = json.loads(
            body.decode("utf-8"), parse_constant=_refuse_number, parse_float=_finite, parse_int=_whole, object_pairs_hook=_distinct
        )
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # a lone surrogate ("\ud800") shows itself here
    except RecursionError as exc:
        raise BadRequest("The JSON is nested too deeply") from exc
    except ValueError as exc:
        raise BadRequest(f"The body is not JSON: {_cause(exc)}") from exc
    if not isinstance(value, dict):
        raise BadRequest("The JSON must be an object: {...}")
    return value


def int_argument(args: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """The whole number `name` of a query string, or `default`; raises BadRequest naming the range."""
    text = args.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII) or not low <= int(text) <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def choice_argument(args: Mapping[str, str], name: str, choices: Sequence[str]) -> str:
    """The argument `name` of a query string, or the first of `choices`; raises BadRequest naming them."""
    text = args.get(name, choices[0])
    if text not in choices:
        raise BadRequest(f"{name} must be {' or '.join(choices)}")
    return text


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _whole(text: str) -> int:
    return int(text) if len(text) <= MOST_DIGITS else int(_refuse_number(f"{text[:40]}..."))


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_number(text[:40])


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its members; json alone would keep the last of two that have one name."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _cause(exc: ValueError) -> str:
    """What is wrong with a JSON text, in words that do not echo it."""
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg} at character {exc.pos}"
    if isinstance(exc, UnicodeError):
        return "it is not UTF-8 text"
    return str(exc)
