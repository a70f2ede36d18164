"""Starts one process of the service, perhaps with a crash point or a fault of its own: `python -m tests.faults.armed`.

Each start takes one line off the process's queue, so a supervisor that starts it again and again carries out one line
after another, and the service as it is once the queue is empty. While a file `parked` lies there, it waits.
"""

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Start:
    """How a process is to be started once: with more in its environment, or another module than `headrace`."""

    env: Mapping[str, str] = field(default_factory=dict)
    module: tuple[str, ...] = ("headrace",)


class Control:
    """What decides how one process starts; a directory, because it outlives every start."""

    def __init__(self, directory: Path) -> None:
        """Name the directory; it is made where it is not there."""
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._parked = directory / "parked"
        self._queue = directory / "starts"

    @property
    def parked(self) -> bool:
        """Whether the next start waits."""
        return self._parked.exists()

    def park(self) -> None:
        """Let the next start wait."""
        self._parked.touch()

    def unpark(self) -> None:
        """Let it go on."""
        self._parked.unlink(missing_ok=True)

    def queue(self, starts: Iterable[Start]) -> None:
        """Lay down how the next starts are to be, in place of what is still there."""
        with self._alone():
            self._write([json.dumps(asdict(start)) for start in starts])

    @property
    def waiting(self) -> int:
        """How many starts are still laid down."""
        return len(self._lines())

    def next(self) -> Start:
        """Take the next start off the queue; a plain one where it is empty."""
        with self._alone():
            lines = self._lines()
            if not lines:
                return Start()
            self._write(lines[1:])
        content = json.loads(lines[0])
        return Start(content["env"], tuple(content["module"]))

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep a start that takes its line from writing back a queue that was laid down anew meanwhile."""
        with (self._directory / "lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, lines: Iterable[str]) -> None:
        fresh = self._queue.with_suffix(".new")
        fresh.write_text("".join(line + "\n" for line in lines))
        fresh.replace(self._queue)

    def _lines(self) -> list[str]:
        return self._queue.read_text().splitlines() if self._queue.exists() else []


def main() -> None:
    """Become the process; it keeps this one's pid."""
    control = Control(Path(sys.argv[1]))
    while control.parked:
        time.sleep(_POLL_S)
    start = control.next()
    argv = [sys.executable, "-m", *start.module, *sys.argv[2:]]
    os.execve(sys.executable, argv, {**os.environ, **start.env})


if __name__ == "__main__":
    main()
