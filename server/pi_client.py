"""The server's client of the Pi: one HTTPS session, pinned to the Pi's certificate, whose errors are ours."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import requests
import urllib3

from changelog import errors
from changelog.compression import ACCEPTED, decompress
from changelog.errors import BrokenFrame, DroverError, Unreachable
from changelog.node.certificates import ANNOUNCED, der_of, fingerprint
from changelog.node.settings import Settings
from changelog.position import Position
from changelog.snapshot import COPY_MEDIA_TYPE
from changelog.wire import MEDIA_TYPE, Header, parse_json, split_frame
from server.credentials import Credential, Credentials
from server.download import Download, Progress
from server.instances import Instances
from server.pace import PacedAdapter
from server.pinned import PinnedAdapter, innermost, why_unreachable

CONNECT_TIMEOUT = 5.0  # s
READ_TIMEOUT = 20.0  # s without a byte, over the time that a long poll may take; see also server/pace.py
COMPARE_TIMEOUT = 600.0  # s in which a Pi reads all its tables
LARGEST_ANSWER = 256 * 2**20  # bytes of an answer in JSON, unpacked: one range may have large rows
PIECE_BYTES = 16 * 1024  # of an answer, at a time: so much may be lost when a link breaks
LONGEST_REASON = 500  # characters of the Pi's own words
TRIES = 5  # of a snapshot's download that bring nothing; others go on where the one before broke off
LOOKS = 3  # at who answers
UNAUTHORIZED = errors.Unauthorized.status

logger = logging.getLogger(__name__)
warnings.simplefilter("ignore", urllib3.exceptions.SystemTimeWarning)  # of a pinned certificate no dates count

_BY_STATUS = {
    cls.status: cls
    for cls in (errors.Unauthorized, errors.Forbidden, errors.HistoryTrimmed, errors.ProtocolMismatch, errors.TooMany, errors.BadRequest)
} | {409: errors.PositionMismatch}


def _bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    size = 0
    for piece in pieces:
        size += len(piece)
        if size > LARGEST_ANSWER:
            raise BrokenFrame(f"an answer of more than {LARGEST_ANSWER} bytes")
        yield piece


class PiClient:
    """The sync API of the Pi that `settings` names. Safe for one thread."""

    name = "Pi"

    def __init__(self, settings: Settings, replica_id: str, credentials: Credentials | None = None) -> None:
        """Key and trust are those of `credentials`, else of `settings`. Raises ConfigError when the certificate to pin cannot be read."""
        scheme = "https" if settings.use_ssl_for_pi else "http"
        self.host = settings.pi_address
        self._base = f"{scheme}://{self.host}/api/sync"
        self.instances = Instances()
        self._settings = settings
        self.received = 0  # bytes of bodies, as they were on the wire
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["X-Replica-Id"] = replica_id
        self._session.mount("http://", PacedAdapter())
        self._credentials, self._credential = credentials or Credentials(settings), Credential("", None)
        self._next, self._confirmed = "", ""  # fingerprints: what the Pi announces, and what it knows to be trusted here
        self._use(self._credentials.present())

    @contextmanager
    def frame(
        self, after: Position, upto: int | None = None, upto_check: int | None = None, *, wait: int = 0, applied: Position | None = None
    ) -> Iterator[tuple[Header, Iterator[bytes]]]:
        """The frame that leads from `after` to the head (or `upto`), undecoded; with `wait` (s) the Pi answers when there is one.

        `upto_check` is the nonce that was told with `upto`. `applied` is what the replica has committed, where it asks for what comes after
        rows that it has only fetched: the Pi keeps its log from there on. Raises PositionMismatch, HistoryTrimmed, BrokenFrame,
        Unreachable and what else the Pi refuses with.
        """
        asked: dict[str, Any] = {"after": after.seq, "epoch": after.epoch, "check": after.check, "wait": wait}
        asked |= {name: value for name, value in (("upto", upto), ("upto_check", upto_check)) if value is not None}
        headers = {"Accept": MEDIA_TYPE, "Accept-Encoding": ACCEPTED, "X-Replica-Position": str(applied or after)}
        with self._get("/changes", asked, headers, READ_TIMEOUT + wait) as response:
            yield split_frame(decompress(response.headers.get("Content-Encoding"), self._chunks(response)))

    def newest(self, after: Position) -> int:
        """The seq of the Pi's head, for a replica at `after`. Raises what `frame` raises."""
        with self.frame(after) as (header, _):
            return header.upto

    def look_again(self) -> None:
        """Ask who answers at this address, over connections made anew: `instances` then knows if it is more than one."""
        for _ in range(LOOKS):
            self._session.close()
            self.facts("/health")

    def snapshot(self, target: Path, accepted_epoch: str | None, progress: Progress) -> int:
        """Download a snapshot to `target`, verified against its digest; returns its size in bytes.

        `accepted_epoch` must be part of the Pi's history, or it refuses with PositionMismatch. A broken download goes on where it broke.
        """
        asked = {"epoch": accepted_epoch} if accepted_epoch else {}
        headers = {"Accept": COPY_MEDIA_TYPE, "Accept-Encoding": ACCEPTED}
        download = Download(target)
        vain = 0
        while not download.whole:
            had = download.done
            try:
                with self._get("/full-export", asked | download.asked, headers, READ_TIMEOUT * 10) as response:
                    pieces = decompress(response.headers.get("Content-Encoding"), self._chunks(response))
                    download.receive(response.headers, pieces, progress)
            except Unreachable:
                vain = 0 if download.done > had else vain + 1
                if not download.done or vain == TRIES:
                    raise
        return download.done

    def facts(self, path: str) -> dict[str, Any]:
        """The JSON of `/api/sync` + path: schema, digest or full-export."""
        with self._get(path, {}, {"Accept": "application/json"}, READ_TIMEOUT * 10) as response:
            return self._object(path, self._chunks(response))

    def keep_trust(self) -> None:
        """Where the Pi has announced its next certificate, trust that too, and tell the Pi so. Raises what `facts` does."""
        shown = self._next
        pinned = self._credentials.is_pinned(shown)
        if not shown or (pinned and shown == self._confirmed):
            return
        if not pinned:
            certificate = der_of(self.facts("/certificate").get("next"))
            if fingerprint(certificate) != shown or not self._credentials.announced(certificate):
                return
        self._use(self._credentials.present())
        self.ask("POST", "/certificate", {"pinned": shown})
        self._confirmed = shown

    def ask(self, method: str, path: str, asked: dict[str, Any]) -> tuple[dict[str, Any], int]:
        """The JSON of a question to `/api/sync` + path, and how many bytes it moved: both bodies, as they were on the wire.

        A GET carries `asked` in its address, a POST as JSON.
        """
        moved = 0

        def counted(pieces: Iterator[bytes]) -> Iterator[bytes]:
            nonlocal moved
            for piece in pieces:
                moved += len(piece)
                yield piece

        body = None if method == "GET" else json.dumps(asked, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        headers = {"Accept": "application/json", "Accept-Encoding": ACCEPTED}
        with self._request(method, path, asked if body is None else {}, headers, COMPARE_TIMEOUT, body=body) as response:
            found = self._object(path, decompress(response.headers.get("Content-Encoding"), counted(self._chunks(response))))
        return found, moved + len(body or b"")

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _get(self, path: str, asked: dict[str, Any], headers: dict[str, str], timeout: float) -> AbstractContextManager[requests.Response]:
        return self._request("GET", path, asked, headers, timeout)

    @contextmanager
    def _request(
        self, method: str, path: str, asked: dict[str, Any], headers: dict[str, str], timeout: float, *, body: bytes | None = None
    ) -> Iterator[requests.Response]:
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}

        def ask() -> requests.Response:
            more: dict[str, Any] = {"params": asked, "data": body, "headers": headers, "timeout": (CONNECT_TIMEOUT, timeout)}
            try:
                return self._session.request(method, self._base + path, stream=True, allow_redirects=False, **more)
            except requests.RequestException as exc:
                raise Unreachable(why_unreachable(innermost(exc), self._settings)) from exc

        self._use(self._credentials.present())
        response = ask()
        if response.status_code == UNAUTHORIZED and self._use(self._credentials.present(again=True)):
            response.close()
            response = ask()  # there was another key in .env
        with response:
            self.instances.answered(response.headers.get("X-Primary-Instance"))
            self._heard(response.headers.get(ANNOUNCED))
            if not response.ok:
                raise self._refusal(response)
            yield response

    def _use(self, credential: Credential) -> bool:
        """Go on with this key and this trust; whether they are others than before."""
        before, self._credential = self._credential, credential
        if credential is before:
            return False
        self._session.headers["X-API-Key"] = credential.key
        if credential.context is not before.context:
            self._session.close()
            if credential.context is not None:
                self._session.mount("https://", PinnedAdapter(credential.context))
        return True

    def _heard(self, certificates: str | None) -> None:
        """Which certificate the Pi uses, and which is to follow."""
        present, _, self._next = (certificates or "").partition(",") if self._credentials.pinning else ("", "", "")
        if present and self._credentials.is_next(present):
            self._session.close()  # this connection was made before: the next one is to see it
        elif present and not self._next:
            self._credentials.none_announced()

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        try:
            for piece in response.raw.stream(PIECE_BYTES, decode_content=False):
                self.received += len(piece)
                yield piece
        except (urllib3.exceptions.HTTPError, OSError) as exc:
            raise Unreachable(f"the connection to {self.host} broke: {exc}") from exc

    def _object(self, path: str, pieces: Iterator[bytes]) -> dict[str, Any]:
        """The JSON object that an answer is. Raises BrokenFrame."""
        answer = b"".join(_bounded(pieces))
        try:
            found = parse_json(answer)
        except BrokenFrame as exc:
            raise BrokenFrame(f"{self.host}{path} did not answer with JSON") from exc
        if not isinstance(found, dict):
            raise BrokenFrame(f"{self.host}{path} did not answer with an object")
        return found

    def _refusal(self, response: requests.Response) -> DroverError:
        """The problem document of the Pi as the error that it was there."""
        try:
            body = response.raw.read(64 * 1024, decode_content=True)
            facts = parse_json(body)
        except (BrokenFrame, urllib3.exceptions.HTTPError, OSError):
            facts = {}
        facts = facts if isinstance(facts, dict) else {}
        hint = "" if self._settings.use_ssl_for_pi else ", asked without TLS: see USE_SSL_FOR_PI"
        said = str(facts.get("message") or response.reason)[:LONGEST_REASON]
        message = f"{self.host}: {said} (HTTP {response.status_code}{hint})"
        error = _BY_STATUS.get(response.status_code, Unreachable)
        return error(message, **{k: facts[k] for k in ("epoch", "oldest", "head", "descends") if k in facts})
