"""What waits to be written: jobs, each signed and with a future for who waits, and the queue that the writer takes them from in groups."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import apsw

from changelog.errors import Unavailable
from changelog.position import Position
from changelog.storage import STORAGE

QUEUE = 10_000  # jobs that may wait
GROUP = 256  # jobs in one transaction: a shell has no patience with locks, so transactions stay short
GATHER, GATHER_TURNS = 0.01, 4  # s that a group waits, and transactions like the last one, for as many jobs as there were then

T = TypeVar("T")
Job = Callable[[apsw.Connection], T]


@dataclass(frozen=True, slots=True)
class Written(Generic[T]):
    """What a job returned, and a position at which a replica has it."""

    value: T
    position: Position


class Task:
    """A queued job, its signature and its future."""

    def __init__(self, job: Job[Any], actor: str) -> None:
        self.job, self.actor = job, actor
        self.future: Future[Any] = Future()
        self._wanted: bool | None = None
        self.value: Any = None
        self.error: Exception | None = None

    def run(self, db: apsw.Connection) -> None:
        """Run the job in a savepoint of the open transaction. Only errors of the storage are raised."""
        if not self._is_wanted():
            return
        self.error = None
        db.execute("SAVEPOINT job")
        try:
            self.value = self.job(db)
        except STORAGE:
            raise
        except Exception as exc:
            self.error = exc
            db.execute("ROLLBACK TO job")
        db.execute("RELEASE job")

    def resolve(self, position: Position) -> None:
        """Tell who waits, after the commit."""
        if self.error is not None:
            self.future.set_exception(self.error)
        elif self._is_wanted():
            self.future.set_result(Written(self.value, position))

    def give_up(self, error: Exception) -> None:
        """Tell who waits that nothing was written."""
        if self._is_wanted():
            self.future.set_exception(error)

    def _is_wanted(self) -> bool:
        """Whether somebody still waits for the result; from the first time that this is asked, nobody can cancel any more."""
        if self._wanted is None:
            self._wanted = self.future.set_running_or_notify_cancel()
        return self._wanted


class Queue:
    """Filled by any thread, emptied by the writer's."""

    def __init__(self) -> None:
        self.stopping = False
        self._tasks: deque[Task] = deque()
        self._changed = threading.Condition()
        self._together = 1  # jobs that were answered or waiting when the last transaction ended: as many may come again
        self._lasted = 0.0  # s that it took

    def __len__(self) -> int:
        return len(self._tasks)

    def put(self, task: Task) -> None:
        """Never waits. Raises Unavailable when the queue is full or was stopped."""
        with self._changed:
            if self.stopping:
                raise stopped()
            if len(self._tasks) >= QUEUE:
                raise Unavailable("too many writes are waiting for the disk; send it again later", written=False)
            self._tasks.append(task)
            if len(self._tasks) in (1, self._together):  # else the writer is at work, or gathers
                self._changed.notify()

    def stop(self) -> None:
        """Take no more; `take` waits for nobody from now on."""
        with self._changed:
            self.stopping = True
            self._changed.notify()

    def take(self, patience: float) -> list[Task]:
        """All that waits, up to one group; where nothing does, it is waited for up to `patience` (s).

        Whoever was answered by the last transaction may come again at once. Without waiting for them, those who send together would fall
        into two halves, of which each waits for the other's commit, and the disk would be asked twice as often.
        """
        with self._changed:
            if not self._tasks and not self.stopping:
                self._changed.wait(patience)
            if self._tasks:
                self._changed.wait_for(self._are_together, min(GATHER, GATHER_TURNS * self._lasted))
            return [self._tasks.popleft() for _ in range(min(len(self._tasks), GROUP))]

    def _are_together(self) -> bool:
        return len(self._tasks) >= self._together or self.stopping

    def settled(self, count: int, seconds: float) -> None:
        """A transaction with so many jobs has taken so long; to be told before they are answered."""
        self._together, self._lasted = min(count + len(self._tasks), GROUP), seconds


def stopped() -> Unavailable:
    """Why nothing is taken when the writer has ended."""
    return Unavailable("the Pi's writer has stopped; send it again when the Pi is up", written=False)
