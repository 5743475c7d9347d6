"""A store in a folder: `<root>/ltx/<level>/<min>-<max>.ltx`, the time of a file its mtime, as a file replica of Litestream."""

from __future__ import annotations

import errno
import io
import os
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from changelog.connection import sync_path
from changelog.errors import BadRequest, Conflict, DroverError, Forbidden, NotFound, Unavailable
from changelog.ltx.store.names import ALL, LEVELS, Name, Stored, Taken, same_content

TEMPORARY = ".tmp"
ABANDONED = 3600.0  # s after which nobody writes a temporary file any more
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)  # what FAT and others say to a second name for a file


class FolderStore:
    """Files under `root`, which is made at the first `put`."""

    conditional = True

    def __init__(self, root: Path) -> None:
        self._root = root

    def __repr__(self) -> str:
        return f"FolderStore({str(self._root)!r})"

    @property
    def url(self) -> str:
        """The folder."""
        return str(self._root)

    def list(self, level: int, after_txid: int = ALL) -> list[Stored]:
        """The files of a level that begin after this transaction, in order."""
        found = []
        with _asked(self._root, absent=None), os.scandir(self._level(level)) as entries:
            for entry in entries:
                name = Name.parse(level, entry.name)
                if name and name.min_txid > after_txid:
                    try:
                        facts = entry.stat()
                    except FileNotFoundError:  # compaction took it away meanwhile
                        continue
                    found.append(Stored(name, facts.st_size, facts.st_mtime_ns // 1_000_000))
        return sorted(found)

    def open(self, name: Name, spool: int = 0, folder: Path | None = None) -> BinaryIO:
        """The file itself."""
        with _asked(self._path(name), absent=NotFound):
            return self._path(name).open("rb")

    def put(self, name: Name, file: BinaryIO, timestamp_ms: int, if_absent: bool = True) -> Taken | None:
        """Write a file beside its place, to the disk, and give it its name, which never hides another one."""
        path = self._path(name)
        with _asked(path):
            if if_absent and path.exists():
                sync_path(path.parent)  # whoever put it there may have been killed before he did
                return self._taken(name, file)
            self._make_folder(path.parent)
            taken = not self._write(path, file, if_absent, timestamp_ms)
        return self._taken(name, file) if taken else None

    def delete(self, names: Iterable[Name]) -> None:
        """Remove files, and what a process that was killed left beside them."""
        names = list(names)
        for name in names:
            with _asked(self._path(name)):
                self._path(name).unlink(missing_ok=True)
        self._tidy({self._path(name).parent for name in names})

    def tidy(self) -> int:
        """What processes that were killed left beside the files."""
        return self._tidy({self._root, *(self._level(level) for level in LEVELS)})

    def timestamp(self, name: Name) -> int:
        """Its mtime."""
        with _asked(self._path(name), absent=NotFound):
            return self._path(name).stat().st_mtime_ns // 1_000_000

    def note(self, key: str) -> bytes | None:
        """A small file in the root."""
        with _asked(self._note(key), absent=None):
            return self._note(key).read_bytes()
        return None

    def put_note(self, key: str, content: bytes, if_absent: bool = False) -> bool:
        """Write a note."""
        with _asked(self._note(key)):
            self._make_folder(self._root)
            written = self._write(self._note(key), io.BytesIO(content), if_absent)
        return written

    def delete_note(self, key: str) -> None:
        """Remove a note."""
        with _asked(self._note(key)):
            self._note(key).unlink(missing_ok=True)

    def _tidy(self, folders: Iterable[Path]) -> int:
        count = 0
        for folder in folders:
            with _asked(folder, absent=None):
                count += _remove_left_overs(folder)
        return count

    def _level(self, level: int) -> Path:
        return self._root / "ltx" / str(level)

    def _path(self, name: Name) -> Path:
        return self._level(name.level) / name.file

    def _note(self, key: str) -> Path:
        if not key or "/" in key or key.startswith(".") or key == "ltx":
            raise BadRequest(f"{key!r} is no name for a note")
        return self._root / key

    def _taken(self, name: Name, file: BinaryIO) -> Taken:
        file.seek(0)
        with self.open(name) as there:
            return Taken(name, same_content(there, file))

    def _write(self, path: Path, file: BinaryIO, if_absent: bool, timestamp_ms: int | None = None) -> bool:
        """Whether it was written: not, where `if_absent` and there is a file of that name."""
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
        try:
            file.seek(0)
            with beside.open("wb") as out:
                shutil.copyfileobj(file, out, 1 << 20)
                out.flush()
                if timestamp_ms is not None:
                    os.utime(out.fileno(), ns=(timestamp_ms * 1_000_000,) * 2)
                os.fsync(out.fileno())
            if if_absent:
                placed = link_new(beside, path)
            else:
                os.replace(beside, path)
                placed = True
            try:
                sync_path(path.parent)
            except OSError:
                if placed:  # a second sync would prove nothing: it is to be put anew
                    path.unlink(missing_ok=True)
                raise
        finally:
            beside.unlink(missing_ok=True)
        return placed

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        self._make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        try:
            sync_path(folder.parent)
        except OSError:
            folder.rmdir()  # likewise
            raise


def _remove_left_overs(folder: Path) -> int:
    count = 0
    for left in folder.glob(f"*{TEMPORARY}"):
        with suppress(FileNotFoundError):  # ended just now
            if time.time() - left.stat().st_ctime > ABANDONED:  # its mtime is that of the file that it was to become
                left.unlink()
                count += 1
    return count


def link_new(beside: Path, path: Path) -> bool:
    """Give a file a second name, which hides no other file; False where there is one.

    Where a file cannot have two names it is renamed, after a look: one writer at a time there.
    """
    try:
        os.link(beside, path)
    except FileExistsError:
        return False
    except OSError as exc:
        if exc.errno not in NO_LINKS:
            raise
        if path.exists():
            return False
        os.replace(beside, path)
    return True


@contextmanager
def _asked(path: Path, absent: type[DroverError] | None = Unavailable) -> Iterator[None]:
    """Errors of the system become ours; `absent` is the one for what is not there, None where that ends the block and no more."""
    try:
        yield
    except FileNotFoundError as exc:
        if absent:
            raise absent(f"{path} is not there") from exc
    except (NotADirectoryError, FileExistsError) as exc:
        raise Conflict(f"{path} cannot be a folder: something else stands there") from exc
    except PermissionError as exc:
        raise Forbidden(f"{path} may not be used: {exc.strerror}") from exc
    except OSError as exc:
        raise Unavailable(f"{path} cannot be used: {exc.strerror}") from exc
