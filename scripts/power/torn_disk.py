"""A disk that loses its power: what is left of a folder's files when what was not synced is dropped, reordered or torn.

Built from a trace of record_io.c. A sync of a file makes all that was written to it before certain, whoever wrote it; a name that
was made, moved or removed is certain after a sync of the folder. All else may be there or not, write by write and name by name; of a write
any of its 512-byte sectors. A disk that lies forgets also what was synced.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WRITE, CUT, SYNC, SYNC_FOLDER, CREATE, RENAME, UNLINK, SEND, MARK = range(1, 10)
HEAD = struct.Struct("<IIQQII")
SECTOR = 512  # bytes
KINDS = ("ordered", "dropped", "reordered", "torn", "garbled")

Files = dict[str, bytes]  # by name


@dataclass(frozen=True, slots=True)
class Op:
    """One call, or a mark. `number` says when, `at` is the offset of a write or the size after a cut."""

    number: int
    kind: int
    pid: int
    file: int
    at: int
    path: str
    data: bytes


def record(kind: int, file: int = 0, at: int = 0, path: str = "", data: bytes = b"", *, pid: int = 0) -> bytes:
    """One record as the recorder writes it; `pid` 0 is for what nobody did."""
    name = path.encode()
    return HEAD.pack(kind, pid, file, at, len(name), len(data)) + name + data


def read_trace(path: Path) -> list[Op]:
    """All records."""
    text, ops, at = path.read_bytes(), list[Op](), 0
    while at < len(text):
        kind, pid, file, offset, name, size = HEAD.unpack_from(text, at)
        at += HEAD.size
        ops.append(Op(len(ops), kind, pid, file, offset, text[at : at + name].decode(), text[at + name : at + name + size]))
        at += name + size
    return ops


class Inode:
    """A file: its content as programs see it, what of that is certain, and the writes and cuts that are not."""

    def __init__(self) -> None:
        self.live, self.certain = bytearray(), bytearray()
        self.pending: list[Op] = []

    def do(self, op: Op) -> None:
        """A write or a cut."""
        _do(self.live, op)
        self.pending.append(op)

    def sync(self) -> None:
        """All of it is certain."""
        for op in self.pending:
            _do(self.certain, op)
        self.pending = []

    def fork(self) -> Inode:
        """A copy."""
        copy = Inode()
        copy.live, copy.certain, copy.pending = bytearray(self.live), bytearray(self.certain), list(self.pending)
        return copy


class Disk:
    """The files of one folder; those in folders below it are not looked at."""

    def __init__(self, folder: str, lies: bool = False) -> None:
        """`lies`: a sync does nothing."""
        self._prefix, self.lies = f"{folder}/", lies
        self._inodes: dict[int, Inode] = {}
        self._names: dict[str, Inode] = {}
        self._certain_names: dict[str, Inode] = {}
        self._pending_names: list[tuple[int, str | None, str | None, Inode]] = []  # when, the name that goes, the one that comes

    def fork(self, lies: bool) -> Disk:
        """A copy that goes its own way."""
        copy = Disk(self._prefix[:-1], lies)
        forks = {id(inode): inode.fork() for inode in [*self._inodes.values(), *self._names.values(), *self._certain_names.values()]}
        copy._inodes = {number: forks[id(inode)] for number, inode in self._inodes.items()}
        copy._names = {name: forks[id(inode)] for name, inode in self._names.items()}
        copy._certain_names = {name: forks[id(inode)] for name, inode in self._certain_names.items()}
        for when, goes, comes, inode in self._pending_names:
            copy._pending_names.append((when, goes, comes, forks.setdefault(id(inode), inode.fork())))
        return copy

    def name_of(self, path: str) -> str | None:
        """The name of a file that is in this folder."""
        name = path.removesuffix(" (deleted)").removeprefix(self._prefix)
        return name if path.startswith(self._prefix) and "/" not in name else None

    def apply(self, op: Op) -> bool:
        """Let it happen; False when it is about nothing in this folder."""
        if op.kind == SYNC_FOLDER:
            if f"{op.path}/" == self._prefix and not self.lies:
                self._certain_names, self._pending_names = dict(self._names), []
            return f"{op.path}/" == self._prefix
        name = self.name_of(op.path) if op.kind < SEND else None
        if name is None:
            return False
        if op.kind == CREATE:
            inode = self._inodes[op.file] = self._names[name] = Inode()
            self._pending_names.append((op.number, None, name, inode))
        elif op.kind == UNLINK:
            self._pending_names.append((op.number, name, None, self._names.pop(name)))
        elif op.kind == RENAME:
            target = self.name_of(op.data.decode())
            assert target is not None, f"{op.path} leaves the folder"
            inode = self._names[target] = self._names.pop(name)
            self._pending_names.append((op.number, name, target, inode))
        elif op.kind == SYNC:
            if not self.lies:
                self._inodes[op.file].sync()
        else:
            self._inodes[op.file].do(op)
        return True

    @property
    def is_certain(self) -> bool:
        """Whether nothing would be lost now."""
        return not self._pending_names and not any(inode.pending for inode in self._names.values())

    def files(self) -> Files:
        """As programs see them."""
        return {name: bytes(inode.live) for name, inode in self._names.items()}

    def after_cut(self, kind: str, chance: random.Random) -> Files:
        """What is there when the power comes back, damaged in one of KINDS.

        "ordered": all up to one moment, the next write torn. "dropped": nothing that was not synced. "reordered": some of it, whole.
        "torn": any sectors of it. "garbled": of the sectors that are not there, some hold anything.
        """
        names, pending = dict(self._certain_names), sorted({op.number for op in self._pending()} | {n[0] for n in self._pending_names})
        last = chance.choice([-1, *pending]) if kind == "ordered" else -1
        in_order = kind in ("ordered", "torn") or chance.random() < 0.5
        stop = last if kind == "ordered" else chance.choice([-1, *(n[0] for n in self._pending_names)])
        for when, goes, comes, inode in self._pending_names if kind != "dropped" else ():
            if when <= stop if in_order else chance.random() < 0.5:
                if goes is not None:
                    names.pop(goes, None)
                if comes is not None:
                    names[comes] = inode
        return {name: bytes(_left(inode, kind, last, chance)) for name, inode in names.items()}

    def _pending(self) -> Iterator[Op]:
        for inode in {id(inode): inode for inode in [*self._names.values(), *self._certain_names.values()]}.values():
            yield from inode.pending


def _left(inode: Inode, kind: str, last: int, chance: random.Random) -> bytearray:
    left, pending = bytearray(inode.certain), inode.pending
    if kind == "ordered":
        for op in pending:
            if op.number > last:
                _do_torn(left, op, chance, 0.0)
                break
            _do(left, op)
    elif kind == "reordered":
        share = chance.choice([0.1, 0.5, 0.9])
        for op in chance.sample(pending, len(pending)):
            if chance.random() < share:
                _do(left, op)
    elif kind != "dropped":
        for op in pending:
            _do_torn(left, op, chance, 0.3 if kind == "garbled" else 0.0)
    return left


def _do(content: bytearray, op: Op) -> None:
    if op.kind == CUT:
        _grow(content, op.at)
        del content[op.at :]
    else:
        _grow(content, op.at)
        content[op.at : op.at + len(op.data)] = op.data


def _do_torn(content: bytearray, op: Op, chance: random.Random, garbage: float) -> None:
    """Any of its sectors; a cut happens or not."""
    share = chance.choice([0.0, 0.2, 0.8, 1.0])
    if op.kind == CUT:
        if chance.random() < share:
            _do(content, op)
        return
    at, end = op.at, op.at + len(op.data)
    while at < end:
        stop = min((at // SECTOR + 1) * SECTOR, end)
        if chance.random() < share:
            piece = op.data[at - op.at : stop - op.at]
        elif chance.random() < garbage:
            piece = chance.randbytes(stop - at)
        else:
            piece = b""
        if piece:
            _grow(content, at)
            content[at:stop] = piece
        at = stop


def _grow(content: bytearray, size: int) -> None:
    """What was never written reads as zeros."""
    if len(content) < size:
        content.extend(bytes(size - len(content)))
