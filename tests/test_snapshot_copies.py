"""A copy of the Pi's database on its way to a server: compressed, gone on with where it broke off, and judged by its digest."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from pi_parts import make_farm
from pi_parts import shell as typed
from werkzeug.test import TestResponse

from changelog.acks import Acks
from changelog.compression import decompress
from changelog.errors import BrokenFrame, Unreachable
from changelog.node.problems import install_problems
from changelog.primary import Primary
from changelog.snapshot import COPY_MEDIA_TYPE
from pi import sync
from pi.keys import Keys
from server.download import Download

SQLITE_MEDIA_TYPE = "application/vnd.sqlite3"
FILL = """WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<4000)
  INSERT INTO batches(batch_number) SELECT printf('{}%d', i) FROM n"""
EVIL = ("", "x", "0" * 64, "ü" * 200, '"')


class Asked:
    """The sync API of a Pi, asked for copies with a replica's key."""

    def __init__(self, folder: Path) -> None:
        self.path = Path(make_farm(folder))
        self.write("A")
        self._primary, self._keys = Primary(self.path), Keys(folder / "pi.db", checkpoints=True)
        acks = Acks(folder / "pi.db")
        app = Flask(__name__)
        install_problems(app)
        app.register_blueprint(sync.blueprint(self._primary, self._keys, acks, folder / "snapshots"))
        self._client, self._key = app.test_client(), self._keys.add("office", "replica")
        self._close = (self._primary.close, self._keys.close, acks.close)

    def write(self, letter: str) -> None:
        typed(str(self.path), FILL.format(letter))

    def answer(self, accept: str = COPY_MEDIA_TYPE, headers: dict[str, str] | None = None, **asked: Any) -> TestResponse:
        sent = {"X-API-Key": self._key, "Accept": accept, **(headers or {})}
        return self._client.get("/api/sync/full-export", headers=sent, query_string=asked, buffered=True)

    def file(self) -> bytes:
        """The newest copy, as people get it."""
        return self.answer(SQLITE_MEDIA_TYPE).data

    def close(self) -> None:
        for close in self._close:
            close()


@pytest.fixture
def pi(tmp_path: Path) -> Iterator[Asked]:
    made = Asked(tmp_path)
    yield made
    made.close()


def body(answer: TestResponse) -> bytes:
    return b"".join(decompress(answer.headers.get("Content-Encoding"), [answer.data]))


def receive(download: Download, answer: TestResponse, upto: int | None = None) -> None:
    """An answer, of which so many bytes come before the connection breaks."""
    data = body(answer)

    def pieces() -> Iterator[bytes]:
        for at in range(0, len(data) if upto is None else upto, 10_000):
            yield data[at : min(at + 10_000, len(data) if upto is None else upto)]
        if upto is not None:
            raise Unreachable("cut")

    download.receive(answer.headers, pieces(), lambda done, size: None)


@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
def test_a_copy_goes_on_from_any_byte_and_ends_with_the_digest_of_all_of_it(pi: Asked, encoding: str) -> None:
    first = pi.answer(headers={"Accept-Encoding": encoding})
    whole, size = pi.file(), int(first.headers["X-Changelog-Size"])
    end = hashlib.sha256(whole).digest()
    assert size == len(whole) and first.headers.get("Content-Encoding", "identity") == encoding
    assert encoding == "identity" or len(first.data) < size / 2
    for start in (0, 1, 4_096, size - 1, size):
        rest = pi.answer(headers={"Accept-Encoding": encoding}, copy=first.headers["X-Changelog-Copy"], **{"from": start})
        assert int(rest.headers["X-Changelog-From"]) == start
        assert body(rest) == whole[start:] + end


@pytest.mark.parametrize("seed", range(4))
def test_a_download_that_is_cut_again_and_again_is_the_file_in_the_end(pi: Asked, tmp_path: Path, seed: int) -> None:
    chance, download = random.Random(seed), Download(tmp_path / "incoming")
    for _ in range(chance.randint(1, 8)):
        answer = pi.answer(headers={"Accept-Encoding": "zstd"}, **download.asked)
        with pytest.raises(Unreachable):
            receive(download, answer, chance.randint(0, len(body(answer))))
    pi.write("B")  # which is in no copy that has begun
    begun = download.done > 0
    receive(download, pi.answer(**download.asked))
    file = tmp_path / "incoming"
    assert download.whole and ("B4000" in typed(str(file), "SELECT batch_number FROM batches")) is not begun
    assert typed(str(file), "PRAGMA integrity_check") == "ok"


def test_where_the_copy_is_gone_meanwhile_another_one_comes_as_a_whole(pi: Asked, tmp_path: Path) -> None:
    download = Download(tmp_path / "incoming")
    with pytest.raises(Unreachable):
        receive(download, pi.answer(), 50_000)
    pi.write("B")
    newer = pi.file()  # somebody else's copy takes the place of the one before
    answer = pi.answer(**download.asked)
    assert download.asked["from"] == 50_000 and answer.headers["X-Changelog-From"] == "0"
    receive(download, answer)
    assert (tmp_path / "incoming").read_bytes() == newer


def test_a_byte_that_changed_before_the_cut_is_found_out_in_the_end(pi: Asked, tmp_path: Path) -> None:
    download = Download(tmp_path / "incoming")
    answer = pi.answer()
    damaged = bytearray(body(answer)[:50_000])
    damaged[20_000] ^= 1
    download_pieces = iter([bytes(damaged)])
    with pytest.raises(Unreachable, match="broke off after 50000"):
        download.receive(answer.headers, download_pieces, lambda done, size: None)
    with pytest.raises(BrokenFrame, match="digest"):
        receive(download, pi.answer(**download.asked))
    assert not download.whole


def test_a_server_that_is_not_updated_yet_gets_the_file_with_its_digest_first(pi: Asked) -> None:
    """It knows the file by the digest in its ETag, and asks for the rest with that."""
    whole = pi.answer(SQLITE_MEDIA_TYPE)
    digest = hashlib.sha256(whole.data).hexdigest()
    assert whole.headers["ETag"] == f'"{digest}"' and int(whole.headers["Content-Length"]) == len(whole.data)
    pi.write("B")
    rest = pi.answer(SQLITE_MEDIA_TYPE, {"Range": "bytes=5000-", "If-Range": f'"{digest}"'})
    assert rest.status_code == 206 and rest.data == whole.data[5_000:]


def test_a_place_or_a_copy_that_is_none_is_no_error_of_ours(pi: Asked) -> None:
    known = pi.answer().headers["X-Changelog-Copy"]
    for start in ("-1", "x", str(2**63), "1e3"):
        assert pi.answer(copy=known, **{"from": start}).status_code == 400
    assert pi.answer(copy=known, **{"from": 2**40}).headers["X-Changelog-From"] == "0"
    for copy in EVIL:
        assert pi.answer(copy=copy, **{"from": 4_096}).headers["X-Changelog-From"] == "0"
        assert pi.answer(SQLITE_MEDIA_TYPE, {"If-Range": copy.encode().decode("latin-1"), "Range": "bytes=5-"}).status_code < 500
