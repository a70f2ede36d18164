"""Where a stack keeps its things: everything below one state directory, so that two stacks never meet."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path

_OWN_ENTRIES = (
    "stack.json",
    "processes.json",
    "up.lock",
    "supervisor.lock",
    "logs",
    "kafka",
    "postgres",
    "valkey",
    "minio",
    "store",
    "archive",
)


class StackBusyError(Exception):
    """Another process holds the lock."""


@dataclass(frozen=True, slots=True)
class StateDir:
    """The paths below a state directory; `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> "StateDir":
        """Name the state directory without touching it."""
        return cls(path.expanduser().absolute())

    @property
    def config(self) -> Path:
        """Addresses and secrets of the stack, readable by its owner only."""
        return self.root / "stack.json"

    @property
    def ledger(self) -> Path:
        """Which processes run, rewritten by the supervisor at every change."""
        return self.root / "processes.json"

    @property
    def blobs(self) -> Path:
        """The directory that stands in for the object store with `store="local"`."""
        return self.root / "store"

    @property
    def archive(self) -> Path:
        """The directory of old bodies with `store="local"`."""
        return self.root / "archive"

    def part(self, name: str) -> Path:
        """The directory of one part, for its data and settings."""
        return self.root / name

    def log(self, name: str) -> Path:
        """The log file of one process."""
        return self.root / "logs" / f"{name}.log"

    @property
    def outside(self) -> Path:
        """The directory of data that an unprivileged account cannot reach inside the state directory."""
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        return Path("/var/tmp") / f"headrace-{digest}"  # noqa: S108 - made with mkdir 0700 and checked for its owner

    def create(self) -> None:
        """Make the directory; may be repeated.

        Root's directory can be passed through, though not listed, because PostgreSQL runs there as another account.
        """
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self.root.mkdir(parents=True, exist_ok=True)
        if self.root.stat().st_uid == os.geteuid():
            self.root.chmod(mode)
        (self.root / "logs").mkdir(mode=0o700, exist_ok=True)

    def purge(self) -> None:
        """Remove the stack's own entries, and the directory if nothing else lies in it; may be repeated."""
        for name in _OWN_ENTRIES:
            entry = self.root / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        if self.outside.is_dir() and not self.outside.is_symlink():
            shutil.rmtree(self.outside, ignore_errors=True)
        if self.root.is_dir() and not any(self.root.iterdir()):
            self.root.rmdir()


def write_private(path: Path, content: bytes) -> None:
    """Replace the file in one step, readable by its owner only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the file's lock; the kernel lets go of it when the process ends, however it ends.

    Raises Busy when another process holds it and `wait` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            flock(file, LOCK_EX if wait else LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise StackBusyError(str(path)) from error
        try:
            yield
        finally:
            flock(file, LOCK_UN)


def cache_home() -> Path:
    """Where downloads and builds are kept for all stacks of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
