"""Several LTX files made into one: of each page the newest, as Litestream's compaction does it. One page of each file is in memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import BinaryIO

from changelog.ltx.codec import Decoder, Page, Written, encode
from changelog.ltx.header import Header, damaged
from changelog.ltx.pages import Encoding


def merged_header(inputs: Sequence[Decoder]) -> Header:
    """The header of what `inputs`, oldest first, become. Raises DamagedObject where one does not go on from those before it."""
    first, reached = inputs[0].header, inputs[0].header.min_txid - 1
    for decoder in inputs:
        header = decoder.header
        if not header.min_txid <= reached + 1 or header.max_txid <= reached:
            raise damaged(decoder.name, f"it does not go on from transaction {reached:016x}")
        if header.page_size != first.page_size:
            raise damaged(decoder.name, f"its pages have {header.page_size} bytes, those of the files before it {first.page_size}")
        reached = header.max_txid
    last = inputs[-1].header
    return Header(last.page_size, last.commit, first.min_txid, last.max_txid, last.timestamp_ms)


def merge(inputs: Sequence[Decoder], out: BinaryIO, name: str, encoding: Encoding = "block") -> tuple[Header, Written]:
    """Write to `out` the file that does what `inputs`, oldest first, do one after another; `name` is for errors.

    All inputs are read to their ends, hence checked. Raises DamagedObject.
    """
    header = merged_header(inputs)
    return header, encode(out, header, merged_pages(inputs, header.commit), encoding, name)


def merged_pages(inputs: Sequence[Decoder], commit: int) -> Iterator[Page]:
    """Of each page up to `commit` the newest. What a later file has cut off does not come back."""
    limits, limit = [], commit
    for decoder in reversed(inputs):
        limits.append(limit)
        limit = min(limit, decoder.header.commit)
    streams = [_ranked(decoder, rank, most) for rank, (decoder, most) in enumerate(zip(reversed(inputs), limits, strict=True))]
    last = 0
    for pgno, _, page in heapq.merge(*streams, key=itemgetter(0, 1)):
        if pgno != last:
            last = pgno
            yield pgno, page


def _ranked(decoder: Decoder, rank: int, limit: int) -> Iterator[tuple[int, int, bytes]]:
    for pgno, page in decoder:
        if pgno <= limit:
            yield pgno, rank, page
