"""What S3 is sent: objects whose answer says that they are there, large ones in parts, and the parts that were left behind."""

from __future__ import annotations

import base64
import hashlib
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from changelog.errors import Unavailable
from changelog.ltx.store.names import LEVELS, Name

WHOLE = 5 * 1024 * 1024  # bytes that are sent in one request; the least that S3 takes as a part
PARTS = 10_000  # that S3 takes of one object
UPLOADS_KEPT = 86_400.0  # s after which nobody goes on with an upload in parts
NO_S3 = (ResponseParserError, KeyError, ValueError)  # what an answer of somebody else ends in: a login page, a proxy

_LEVELS = {f"{level:04x}": level for level in LEVELS}


class Uploads:
    """The uploads in parts of one client. All methods raise what boto3 raises, NO_S3, and Unavailable."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._under_way: set[str] = set()

    def put(self, asked: dict[str, Any], last: dict[str, Any], file: BinaryIO, size: int) -> None:
        """Send a file in parts, which become an object at the end."""
        upload = self._client.create_multipart_upload(**asked)["UploadId"]
        which = {"Bucket": asked["Bucket"], "Key": asked["Key"], "UploadId": upload}
        self._under_way.add(upload)
        try:
            parts: list[dict[str, Any]] = []
            part_size = max(WHOLE, -(-size // PARTS))
            while body := file.read(part_size):
                number = len(parts) + 1
                reply = stored(self._client.upload_part(**which, PartNumber=number, Body=body, ContentMD5=md5(body)))
                parts.append({"PartNumber": number, "ETag": reply["ETag"]})
            stored(self._client.complete_multipart_upload(**which, MultipartUpload={"Parts": parts}, **last))
        except BaseException:
            with suppress(BotoCoreError, ClientError, *NO_S3):  # else its parts lie there unseen, and cost, until `tidy`
                self._client.abort_multipart_upload(**which)
            raise
        finally:
            self._under_way.discard(upload)

    def tidy(self, bucket: str, prefix: str, kept: float) -> int:
        """End the uploads of LTX files under `prefix` that were begun `kept` seconds ago and are not under way here; returns how many.

        A process that was killed left them, or a line that was dead when they were to be ended. How old they are says the server's clock.
        """
        left = []
        for page in self._client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
            for upload in page.get("Uploads", ()):
                age = (now - upload["Initiated"]).total_seconds()
                if age >= kept and upload["UploadId"] not in self._under_way and _is_ltx(upload["Key"].removeprefix(prefix)):
                    left.append({"Bucket": bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]})
        for upload in left:
            with suppress(self._client.exceptions.NoSuchUpload):
                self._client.abort_multipart_upload(**upload)
        return len(left)


def stored(reply: dict[str, Any]) -> dict[str, Any]:
    """An answer that tells of an object. Raises Unavailable where it does not: not all that answers 200, or 202, has stored something."""
    if not reply.get("ETag"):
        raise Unavailable("the store does not say that it has the object: somebody else writes it, or what answers there is no S3 server")
    return reply


def md5(body: bytes) -> str:
    """As HTTP writes it."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


def _is_ltx(key: str) -> bool:
    level, _, file = key.partition("/")
    return level in _LEVELS and Name.parse(_LEVELS[level], file) is not None
