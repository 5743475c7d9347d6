"""What follows a power cut: both sides opened by our own start path and reconciled, and what is wrong then, if anything is."""

from __future__ import annotations

import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import apsw

from changelog.acks import Acks, read_acks
from changelog.connection import connect, one, rows
from changelog.errors import BrokenFrame, DroverError, PositionMismatch
from changelog.position import Position
from changelog.primary import Primary
from changelog.reader import descends, known_nonce
from changelog.replay import position_of
from changelog.verify.digest import digest_tables
from changelog.verify.local import Answers
from changelog.wire import Header, split_frame
from pi import farm as pi_farm
from scripts.power.torn_disk import Files
from scripts.power.truth import Truth
from server.follower import Follower
from server.instances import Instances
from server.measures import Measures
from server.replica import Replica
from server.road import Doubt
from server.state import SyncState
from server.store import Store
from server.verifier import Verdict, compare_with, verify

T = TypeVar("T")

STEPS = 4  # after which the server must be where the Pi is
STALE_SHM = 0.1  # share of states in which a -shm of before is there, full of anything


@dataclass(frozen=True)
class State:
    """A disk after a power cut: before which op, of whom, how damaged; `since` is where a lying disk began to lie."""

    number: int
    target: str
    cut: int
    since: int
    kind: str
    seed: str

    def __str__(self) -> str:
        return f"state {self.number} (seed {self.seed}): {self.target} {self.kind}, cut before op {self.cut}"


class FilePi:
    """The Pi of a follower, without a network: the same bytes from its file."""

    name = host = "Pi"

    def __init__(self, primary: Primary) -> None:
        self._primary, self.instances, self.received = primary, Instances(), 0

    @contextmanager
    def frame(
        self, after: Position, upto: int | None = None, upto_check: int | None = None, **_: object
    ) -> Iterator[tuple[Header, Iterator[bytes]]]:
        """As PiClient.frame."""
        _, chunks = self._primary.encoded_frame(after, upto, None, upto_check)
        yield split_frame(chunks)

    def newest(self, after: Position) -> int:
        """As PiClient.newest."""
        with self.frame(after) as (header, _):
            return header.upto

    def look_again(self) -> None:
        """Nobody else can answer."""

    def snapshot(self, target: Path, accepted_epoch: str | None, progress: object) -> int:
        """As PiClient.snapshot."""
        with self._primary.snapshot() as db:
            epoch = Position.of_head(db).epoch
            if accepted_epoch and not descends(db, accepted_epoch):
                raise PositionMismatch(f"the history here does not contain {accepted_epoch}", epoch=epoch, descends=False)
        self._primary.copy_to(target)
        return target.stat().st_size


class Server(Follower):
    """The server's writing side over the files of a folder; remembers why it fetched copies."""

    def __init__(self, folder: Path, primary: Primary) -> None:
        self.store, self.readers = Store(folder / "server.db"), Replica(folder / "replica.db")
        self.doubts: list[Doubt] = []
        self._primary, client = primary, cast(Any, FilePi(primary))
        super().__init__(self.readers, self.store, SyncState(30.0), client, threading.Event(), measures=Measures())

    def bootstrap(self, doubt: Doubt, origin: Any = None) -> None:
        """Remember why."""
        self.doubts.append(doubt)
        super().bootstrap(doubt, origin)

    def compare(self, repair: bool = False) -> Verdict:
        """As Follower.compare, from the Pi's file."""
        return compare_with(Answers(self._primary), self.file.checked(), lambda seq: self.pull(upto=seq), repair)

    def end(self) -> None:
        """Close all."""
        self.close()
        self.readers.close()
        self.store.close()


class Trial:
    """One state: both sides opened and reconciled. Counts what it sees."""

    def __init__(self, state: State, truth: Truth, folder: Path, counts: Counter[str]) -> None:
        self.state, self.truth, self.counts = state, truth, counts
        self.chance = random.Random(f"{state.seed}/after")
        self.pi, self.server = folder / "pi", folder / "server"
        self.cut = {"pi": state.target != "server", "server": state.target != "pi"}
        # A program that syncs nothing and makes checkpoints is like a disk that lies, until the Pi serves what it left.
        careless = self.cut["pi"] and any(begin <= state.cut <= end for begin, end in truth.careless)
        self.lying = careless or state.since < state.cut
        self.counts["states while a careless program had made a checkpoint"] += careless
        self.unsound = set[str]()  # files in which SQLite finds something wrong
        self.damaged = False  # a file that only a disk that lies can leave
        self.behind = False  # whether the Pi lost what the server has

    def lay_out(self, files: dict[str, Files]) -> None:
        """Write the files; where a -shm of before the cut is there as well, nobody minds."""
        for name, folder in (("pi", self.pi), ("server", self.server)):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            for file, content in files[name].items():
                (folder / file).write_bytes(content)
                if file.endswith(".db") and self.chance.random() < STALE_SHM:
                    (folder / f"{file}-shm").write_bytes(self.chance.randbytes(32768))

    def run(self) -> None:
        """Raises AssertionError, saying what is wrong."""
        pi_at = self._examined(self.pi / "farm.db", "pi", Position.of_head)
        server_at = self._examined(self.server / "replica.db", "server", position_of)
        for side, path in (("pi", self.pi / "pi.db"), ("server", self.server / "server.db")):
            if self.cut[side] and path.exists():
                self._opened(path, lambda db: None)
        if not self.lying:
            self._nothing_is_lost(pi_at, server_at)
        self._reconcile(pi_at, server_at)

    def _opened(self, path: Path, look: Callable[[apsw.Connection], T]) -> T | None:
        """What `look` sees in a file that SQLite finds sound; None where it does not, which only a disk that lies may bring about."""
        try:
            with closing(connect(path)) as db:
                found = one(db, "PRAGMA integrity_check")
                if found == "ok":
                    return look(db)
        except (DroverError, apsw.Error) as exc:
            found = str(exc)
        assert self.lying, f"{path.name}: {found}"
        self.counts[f"damaged by the lie: {path.name}"] += 1
        self.unsound.add(path.name)
        self.damaged = True
        return None

    def _examined(self, path: Path, side: str, position: Callable[[apsw.Connection], Position]) -> Position | None:
        """Where a database is: sound, at the end of a commit that there was, with its content, and its log a part of history."""
        if not path.exists():
            return None
        if not self.cut[side]:
            with closing(connect(path)) as db:
                return position(db)

        def look(db: apsw.Connection) -> tuple[Position, str]:
            at = position(db)
            return at, self._fault(db, at)

        seen = self._opened(path, look)
        if seen is None:
            return None
        at, fault = seen
        if fault:
            assert self.lying, f"{path.name} is at {at}, and {fault}"
            self.counts[f"damaged by the lie, unseen by SQLite: {path.name}"] += 1
            self.damaged = True
        return at

    def _fault(self, db: apsw.Connection, at: Position) -> str:
        """How a database differs from what it was at this position, if it does."""
        if self.truth.digest(db) not in self.truth.contents.get(at, ()):
            return "no commit had this content there"
        found = rows(db, "SELECT seq, nonce FROM changelog ORDER BY seq")
        whole = found[-1][0] - found[0][0] + 1 == len(found) or one(db, "SELECT 1 FROM changelog_meta WHERE name='gap'")
        if found[-1][0] != at.seq or not whole:
            return "its log has a gap"
        return "" if self.truth.log.issuperset(found) else "its log is not a part of history"

    def _nothing_is_lost(self, pi_at: Position | None, server_at: Position | None) -> None:
        cut, reached = self.state.cut, server_at.seq if server_at else 0
        if self.cut["server"]:
            acknowledged = max((seq for number, seq in self.truth.acknowledged if number < cut), default=0)
            assert reached >= acknowledged, f"the replica is at {reached} and had acknowledged {acknowledged}"
        if (self.pi / "pi.db").exists():
            for ack in read_acks(
                self.pi / "pi.db"
            ):  # one of another epoch is of a copy that was handed out: none of the older log is needed
                ahead = server_at and ack.epoch == server_at.epoch and ack.seq > reached
                assert not ahead or not self.truth.is_server(ack.replica_id), f"the replica is at {server_at}, and pi.db has {ack}"
        assert pi_at is not None, "farm.db is gone"
        if self.cut["pi"]:
            with closing(connect(self.pi / "farm.db")) as db:
                self._promises_are_kept(db, pi_at, server_at)

    def _promises_are_kept(self, db: apsw.Connection, pi_at: Position, server_at: Position | None) -> None:
        cut = self.state.cut
        tags = {tag for (tag,) in rows(db, "SELECT lf_tag FROM lora_payload_buffer")}
        lost = {tag for number, tag in self.truth.answered if number < cut} - tags
        assert not lost, f"answered 201 and lost: {sorted(lost)}"
        oldest = one(db, "SELECT min(seq) FROM changelog")
        served = [position for number, position in self.truth.served if number < cut]
        for position in [*served[-3:], *([server_at] if server_at else [])]:
            known = known_nonce(db, position.seq)
            is_there = position.seq <= pi_at.seq and (known == position.check or (known is None and position.seq < oldest))
            assert is_there, f"{position} was served, and the Pi is at {pi_at}"

    def _reconcile(self, pi_at: Position | None, server_at: Position | None) -> None:
        """Start the Pi as ever, perhaps write something, and let the server take its steps."""
        farm = self.pi / "farm.db"
        try:
            pi_farm.open_farm(farm)
            self._write(farm, pi_at, server_at)
            with closing(Acks(self.pi / "pi.db")) as acks:
                acks.all()
        except (DroverError, apsw.Error) as exc:
            assert self.lying, f"the Pi does not start: {type(exc).__name__}: {exc}"
            self.counts["refused by the Pi"] += 1
            return
        source = Primary(farm)
        server = Server(self.server, source)
        try:
            self._follow(server, source)
            self._alike(server, source, farm)
            self._count(server, server_at, pi_at)
        except (DroverError, apsw.Error) as exc:
            assert self.damaged, f"{type(exc).__name__}: {exc}"
            self.counts["refused by the server or the Pi"] += 1
        finally:
            server.end()
            source.close()

    def _write(self, farm: Path, pi_at: Position | None, server_at: Position | None) -> None:
        """Something new, often exactly as many changes as would hide that the Pi went back."""
        lost = server_at.seq - pi_at.seq if pi_at and server_at else 0
        self.behind = bool(pi_at and server_at and (lost > 0 or self.truth.order.get(server_at, 0) > self.truth.order.get(pi_at, 0)))
        with closing(connect(farm, checkpoints=True)) as db:
            for number in range(self.chance.choice([0, 1, max(lost, 0), max(lost, 0) + 1])):
                db.execute("INSERT INTO pens(pen_number, capacity) VALUES(?, 1)", (f"AFTER{number}",))

    def _follow(self, server: Server, source: Primary) -> None:
        for _ in range(STEPS):
            try:
                server.step()
            except BrokenFrame:  # of what was staged, and is forgotten by now; the sync service tries again, too
                self.counts["staged rows fetched again"] += 1
            if server.reached == source.head():
                return
        raise AssertionError(f"after {STEPS} steps the server is at {server.reached}, the Pi at {source.head()}: {server.doubts}")

    def _alike(self, server: Server, source: Primary, farm: Path) -> None:
        with source.snapshot() as db:
            head, theirs, oldest = Position.of_head(db), digest_tables(db), one(db, "SELECT min(seq) FROM changelog")
        ours = digest_tables(server.file.db)
        if theirs != ours and self.damaged:  # the Pi's file does not hold what its own log says
            assert not verify(server, repair=True).identical, "a silent divergence: verify finds nothing"
            self.counts["damage found by verify"] += 1
            ours = digest_tables(server.file.db)
        wrong = sorted(name for name in theirs.keys() | ours.keys() if theirs.get(name) != ours.get(name))
        assert not wrong, f"a silent divergence at {head}: {wrong}"
        self.counts["served from a damaged farm.db"] += "farm.db" in self.unsound
        assert _logs_are_alike(server.file.db, farm, oldest), "the logs differ"

    def _count(self, server: Server, server_at: Position | None, pi_at: Position | None) -> None:
        for doubt in server.doubts:
            self.counts[f"copies fetched: {doubt.cause}"] += 1
        causes = {doubt.cause for doubt in server.doubts}
        if not self.lying:
            assert causes <= {"missing", "new_epoch"}, f"copies were needed: {server.doubts}"
            assert "missing" not in causes or server_at is None
        if self.behind:
            assert causes & {"rewound", "new_epoch", "damaged"}, f"the Pi went back from {server_at} to {pi_at}, and nobody saw it"
            self.counts["rewinds found out"] += 1
            kept = [*self.server.glob("*.rescued-*.db")]
            self.counts["of these with lost changes kept"] += bool(kept)


def _logs_are_alike(replica: apsw.Connection, farm: Path, oldest: int) -> bool:
    """Whether the replica has the Pi's log, row by row."""
    replica.execute("ATTACH ? AS pi", (str(farm),))
    try:
        columns = ",".join(name for (name,) in rows(replica, "SELECT name FROM pragma_table_info('changelog', 'pi')"))
        ours, theirs = (f"SELECT {columns} FROM {file}.changelog WHERE seq>={oldest}" for file in ("main", "pi"))
        return not any(rows(replica, f"SELECT 1 FROM ({a} EXCEPT {b})") for a, b in ((ours, theirs), (theirs, ours)))
    finally:
        replica.execute("DETACH pi")
