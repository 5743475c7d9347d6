"""A store in an S3 bucket: `<path>/<level, four hex digits>/<min>-<max>.ltx`, the time of a file its metadata, as Litestream does it."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound, SSLError

from changelog.errors import DroverError, Forbidden, NotFound, Unavailable
from changelog.ltx.store.names import ALL, Name, Stored, Taken, as_text, from_moment, from_text, same_content
from changelog.ltx.store.uploads import NO_S3, UPLOADS_KEPT, WHOLE, Uploads, md5, stored

logger = logging.getLogger(__name__)

TIMESTAMP = "litestream-timestamp"  # metadata
PIECE = 256 * 1024  # bytes that are read at a time
SPOOL = 1024 * 1024  # bytes of an object that are held in memory, when the caller does not say
TRIES = 5  # for one object that breaks off, without a byte in between
PAUSE = 0.2  # s before the second try, doubled for each one after it
AT_ONCE = 1000  # objects that one request may delete
PROBE = "drover-probe"
REMEDIES = {  # for what a server answers
    "RequestTimeTooSkewed": "set the clock of this machine",
    "AuthorizationHeaderMalformed": "check the region",
    "PermanentRedirect": "check the region",
}


class S3Store:
    """Objects under `path` of a bucket. `client` is boto3's; see `s3_client` of place.py."""

    def __init__(self, client: Any, bucket: str, path: str = "") -> None:
        self._client, self._bucket, self._path = client, bucket, path.strip("/")
        self._conditional: bool | None = None
        self._uploads = Uploads(client)
        client.meta.events.register("before-sign.s3.DeleteObjects", _add_md5, unique_id="drover-md5")

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        """s3://bucket/path."""
        return f"s3://{self._bucket}/{self._path}".rstrip("/")

    @property
    def conditional(self) -> bool:
        """Whether the server honours If-None-Match, tried once with a note."""
        if self._conditional is None:
            self._conditional = self._probe()
        return self._conditional

    def list(self, level: int, after_txid: int = ALL) -> list[Stored]:
        """The files of a level that begin after this transaction, in order."""
        prefix = self._key_of(f"{level:04x}/")
        asked = {"Bucket": self._bucket, "Prefix": prefix}
        if after_txid > 0:
            asked["StartAfter"] = f"{prefix}{after_txid:016x}-{'f' * 16}.ltx"
        found = []
        with self._asked(self.url):
            for page in self._client.get_paginator("list_objects_v2").paginate(**asked):
                if "IsTruncated" not in page:
                    raise KeyError("IsTruncated")  # a page that is no list of S3's is no empty list
                for entry in page.get("Contents", ()):
                    name = Name.parse(level, entry["Key"].removeprefix(prefix))
                    if name and name.min_txid > after_txid:
                        found.append(Stored(name, entry["Size"], from_moment(entry["LastModified"])))
        return sorted(found)

    def open(self, name: Name, spool: int = 0, folder: Path | None = None) -> BinaryIO:
        """Fetched whole, going on where it breaks off; what is over `spool` bytes lies in `folder` (or where temporary files lie)."""
        out = cast(BinaryIO, tempfile.SpooledTemporaryFile(spool or SPOOL, dir=str(folder) if folder else None))  # noqa: SIM115
        try:
            self._fetch(name, out)
            out.seek(0)
        except OSError as exc:
            out.close()
            raise Unavailable(f"{self._shown(name)} cannot be kept in a temporary file: {exc.strerror or exc}") from exc
        except BaseException:
            out.close()
            raise
        return out

    def put(self, name: Name, file: BinaryIO, timestamp_ms: int, if_absent: bool = True) -> Taken | None:
        """Sent in one request or, when it is large, in parts that become an object at the end."""
        size = file.seek(0, 2)
        looked = if_absent and (size >= WHOLE or not self.conditional)
        if looked and self._is_there(name):
            return self._taken(name, file)
        asked = {"Bucket": self._bucket, "Key": self._key(name), "Metadata": {TIMESTAMP: as_text(timestamp_ms)}}
        last = {"IfNoneMatch": "*"} if if_absent and self.conditional else {}
        file.seek(0)
        try:
            with self._asked(self._shown(name)):
                if size < WHOLE:
                    body = file.read()
                    stored(self._client.put_object(**asked, **last, Body=body, ContentMD5=md5(body)))
                else:
                    self._uploads.put(asked, last, file, size)
        except _Precondition:
            return self._taken(name, file)
        return None

    def delete(self, names: Iterable[Name]) -> None:
        """Remove objects, many in one request."""
        keys = [{"Key": self._key(name)} for name in names]
        for first in range(0, len(keys), AT_ONCE):
            with self._asked(self.url):
                some = keys[first : first + AT_ONCE]
                reply = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": some})
            for failed in reply.get("Errors", ()):
                raise Unavailable(f"{failed.get('Key')} of {self.url} was not deleted: {failed.get('Code')}")
            if len(reply.get("Deleted", ())) < len(some):
                raise Unavailable(f"{self.url} does not say that what was to be deleted is gone")

    def timestamp(self, name: Name) -> int:
        """Its metadata or, where another program left none, when it was put there."""
        with self._asked(self._shown(name)):
            reply = self._head(self._key(name))
            put_at = from_moment(reply["LastModified"])
        with suppress(DroverError):
            return from_text(reply.get("Metadata", {}).get(TIMESTAMP, ""))
        return put_at

    def note(self, key: str) -> bytes | None:
        """A small object beside the levels."""
        try:
            with self._asked(f"{key} of {self.url}"):
                reply = stored(self._client.get_object(Bucket=self._bucket, Key=self._key_of(key)))
                reply["ContentLength"]  # without one nobody knows whether that is all
                return bytes(reply["Body"].read())
        except NotFound as exc:
            if exc.facts.get("bucket"):
                raise
        return None

    def put_note(self, key: str, content: bytes, if_absent: bool = False) -> bool:
        """Write a note."""
        if if_absent and not self.conditional and self.note(key) is not None:
            return False
        last = {"IfNoneMatch": "*"} if if_absent and self.conditional else {}
        asked = {"Bucket": self._bucket, "Key": self._key_of(key), "Body": content, "ContentMD5": md5(content)}
        try:
            with self._asked(f"{key} of {self.url}"):
                stored(self._client.put_object(**asked, **last))
        except _Precondition:
            return False
        return True

    def delete_note(self, key: str) -> None:
        """Remove a note."""
        with self._asked(f"{key} of {self.url}"):
            self._client.delete_object(Bucket=self._bucket, Key=self._key_of(key))

    def tidy(self, kept: float = UPLOADS_KEPT) -> int:
        """Uploads in parts that were begun `kept` seconds ago; who may not list or end them leaves that to the bucket's owner."""
        try:
            with self._asked(f"what uploads have left in {self.url}"):
                return self._uploads.tidy(self._bucket, self._key_of(""), kept)
        except Forbidden as exc:
            logger.info("%s", exc.message)
        return 0

    def _key_of(self, rest: str) -> str:
        return f"{self._path}/{rest}" if self._path else rest

    def _key(self, name: Name) -> str:
        return self._key_of(f"{name.level:04x}/{name.file}")

    def _shown(self, name: Name) -> str:
        return f"{name} of {self.url}"

    def _head(self, key: str) -> Any:
        """What is said of an object, with its first byte: only when a body follows is it sure that nothing of the head is missing."""
        try:
            reply = self._client.get_object(Bucket=self._bucket, Key=key, Range="bytes=0-0")
        except ClientError as exc:
            if _status(exc) != 416:  # which is said of one that is empty
                raise
            return self._client.head_object(Bucket=self._bucket, Key=key)
        with closing(reply["Body"]) as body:
            if not body.read(1):
                raise KeyError("Body")
        return reply

    def _probe(self) -> bool:
        asked = {"Bucket": self._bucket, "Key": self._key_of(PROBE), "Body": b"", "ContentMD5": md5(b""), "IfNoneMatch": "*"}
        answers = []
        with self._asked(self.url):
            for _ in range(2):  # the first may find what an earlier probe left
                try:
                    stored(self._client.put_object(**asked))
                    answers.append(200)
                except ClientError as exc:
                    answers.append(status := _status(exc))
                    if status not in (412, 409, 400, 501) or _code(exc) == "RequestTimeout":
                        raise
        with suppress(DroverError):
            self.delete_note(PROBE)
        return answers[-1] == 412

    def _is_there(self, name: Name) -> bool:
        try:
            self.timestamp(name)
        except NotFound as exc:
            if exc.facts.get("bucket"):
                raise
            return False
        return True

    def _taken(self, name: Name, file: BinaryIO) -> Taken:
        file.seek(0)
        with self.open(name) as there:
            return Taken(name, same_content(there, file))

    def _fetch(self, name: Name, out: BinaryIO) -> None:
        which, tries, got, etag = {"Bucket": self._bucket, "Key": self._key(name)}, 0, 0, ""
        while True:
            rest = {"Range": f"bytes={got}-", "IfMatch": etag} if got else {}
            try:
                with self._asked(self._shown(name)):
                    reply = self._client.get_object(**which, **rest)
                    etag, whole, before = reply["ETag"], got + reply["ContentLength"], got
            except _Precondition:  # it was replaced meanwhile
                got = out.seek(0)
                out.truncate()
                tries += 1
                if tries < TRIES:
                    continue
                raise Unavailable(f"{self._shown(name)} is replaced again and again") from None
            try:
                while piece := reply["Body"].read(PIECE):
                    out.write(piece)
                    got += len(piece)
                if got == whole:
                    return
                reason = f"{got} of {whole} bytes came"
            except BotoCoreError as exc:
                reason = type(exc).__name__
            finally:
                reply["Body"].close()
            tries = 0 if got > before else tries + 1
            if tries >= TRIES:
                raise Unavailable(f"{self._shown(name)} breaks off: {reason}")
            logger.info("object broke off, going on name=%s at=%d reason=%s", name, got, reason)
            time.sleep(PAUSE * 2**tries)

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Errors of boto3 become ours. Of a server's answer only its code is told: texts may hold what was sent."""
        try:
            yield
        except ClientError as exc:
            status, code = _status(exc), _code(exc)
            if status == 412:
                raise _Precondition from exc
            if code == "NoSuchBucket":
                raise NotFound(f"there is no bucket {self._bucket}: make it, or correct the name", bucket=self._bucket) from exc
            if status == 404:
                raise NotFound(f"{what} is not there") from exc
            remedy = REMEDIES.get(code)
            if status in (401, 403):
                remedy = remedy or "check the keys (AWS_ACCESS_KEY_ID ...) and their rights"
                raise Forbidden(f"{what} may not be used ({code}): {remedy}") from exc
            raise Unavailable(f"{what} cannot be used: the server answers {status} {code}" + (f", {remedy}" if remedy else "")) from exc
        except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as exc:
            raise Forbidden("there is no key for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE") from exc
        except SSLError as exc:
            remedy = "name the authority that signed it in AWS_CA_BUNDLE=/path.pem, and the endpoint as the certificate does"
            raise Unavailable(f"{what} is refused for its certificate ({exc.kwargs['error']}): {remedy}") from exc
        except NO_S3 as exc:
            raise Unavailable(f"{what} cannot be used: what answers there is no S3 server") from exc
        except BotoCoreError as exc:
            raise Unavailable(f"{what} cannot be reached ({type(exc).__name__}): is the endpoint right, and the network there?") from exc


class _Precondition(Exception):
    """412: the object that must not be there is, or the one that must be is not."""


def _status(exc: ClientError) -> int:
    return exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def _code(exc: ClientError) -> str:
    return str(exc.response.get("Error", {}).get("Code", ""))


def _add_md5(request: Any, **_: Any) -> None:
    """Servers older than S3's new checksums want this header on the deletion of many."""
    if "Content-MD5" not in request.headers:
        request.headers["Content-MD5"] = md5(request.body if isinstance(request.body, bytes) else request.body.encode())
