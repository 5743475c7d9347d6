"""What the next file of a store goes on from."""

from __future__ import annotations

from dataclasses import dataclass

from changelog.errors import DroverError, Unavailable
from changelog.ltx.codec import decode
from changelog.ltx.fence import survey
from changelog.ltx.staging import Staged
from changelog.ltx.store.names import Store


class StoreAway(Unavailable):
    """The store does not tell what it has."""


@dataclass(frozen=True)
class Chain:
    """The last file."""

    txid: int  # 0: there is none
    timestamp_ms: int
    page_size: int  # 0: any may follow


def chain_of(staged: Staged) -> Chain:
    """That of a file which was staged last."""
    return Chain(staged.txid, staged.header.timestamp_ms, staged.header.page_size)


def chain_in(store: Store) -> Chain:
    """That of a store, whoever wrote it. Raises StoreAway."""
    try:
        remote = survey(store)
        if remote.newest is None:
            return Chain(remote.last, 0, 0)
        with store.open(remote.newest.name) as file:
            header = decode(file, str(remote.newest.name)).header
    except DroverError as exc:
        raise StoreAway(exc.message) from exc
    return Chain(remote.last, header.timestamp_ms, header.page_size)
