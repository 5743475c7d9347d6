"""Answers over the wire: text is compressed in one place.

What compression tells an onlooker about a secret (BREACH) it tells through a secret that stands unchanged beside what the onlooker chooses.
The one secret of our pages is the token of their forms, and `server.login` writes it differently into every answer.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from flask import Flask, Response, request

SMALLEST = 1_000  # bytes that are worth it
LEVEL = 1  # a list shrinks to a tenth in a third of a millisecond; more effort brings little
LEVEL_KEPT = 9  # of files, which are compressed once
LARGEST_KEPT = 2_000_000  # bytes of a file
GZIP = 16 + zlib.MAX_WBITS
TEXTS = ("text/", "application/json", "application/problem+json", "application/javascript", "image/svg+xml")


def install_compression(app: Flask) -> None:
    """Compress every text that `app` answers with, for whoever takes gzip."""
    app.after_request(compress)


def compress(response: Response) -> Response:
    """The answer, compressed where that is possible and worth it. What is streamed, such as a list as CSV, is left as it is."""
    kept = request.endpoint == "static"
    if not (response.mimetype or "").startswith(TEXTS) or (response.is_streamed and not kept) or "Content-Encoding" in response.headers:
        return response
    response.vary.add("Accept-Encoding")
    if response.status_code != 200 and response.status_code < 400:
        return response
    length = response.content_length
    if request.accept_encodings["gzip"] <= 0 or length is None or length < SMALLEST or "Range" in request.headers:
        return response
    if kept:
        if length > LARGEST_KEPT or request.method != "GET":
            return response
        etag, _ = response.get_etag()
        response.direct_passthrough = False
        response.set_data(_packed_file(request.path, etag, response.get_data()))
        if etag is not None:
            response.set_etag(etag, weak=True)  # the same file, other bytes
    else:
        response.set_data(_packed(response.get_data(), LEVEL))
    response.headers["Content-Encoding"] = "gzip"
    return response


@lru_cache(maxsize=64)
def _packed_file(path: str, etag: str | None, data: bytes) -> bytes:
    return _packed(data, LEVEL_KEPT)


def _packed(data: bytes, level: int) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, GZIP)
    return packer.compress(data) + packer.flush()
