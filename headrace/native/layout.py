"""The layout of a state directory: everything that a stack keeps lies below it, so two stacks never meet."""

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN, flock
from pathlib import Path
from typing import IO

_LOCK_POLL_S = 0.05
_OWN_ENTRIES = (
    "stack.json",
    "client.json",
    "settings.json",
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
    "sites",
    "sites.toml",
    "mirror",
    "import-platform",  # the state of imports into this stack
)


class LockHeldError(Exception):
    """Another process holds the lock."""


@dataclass(frozen=True, slots=True)
class StateDir:
    """The paths below a state directory; `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> "StateDir":
        """Return the state directory at a path, without creating it."""
        return cls(path.expanduser().absolute())

    @property
    def config(self) -> Path:
        """The addresses and secrets of the stack, readable by its owner only."""
        return self.root / "stack.json"

    @property
    def processes(self) -> Path:
        """The state file: which processes run; the supervisor rewrites it at every change."""
        return self.root / "processes.json"

    @property
    def applied(self) -> Path:
        """The settings that the processes were started with."""
        return self.root / "settings.json"

    @property
    def blobs(self) -> Path:
        """The directory that replaces the object store with `store="local"`."""
        return self.root / "store"

    @property
    def archive(self) -> Path:
        """The directory of old bodies with `store="local"`."""
        return self.root / "archive"

    def part(self, name: str) -> Path:
        """The directory of one server, for its data and settings."""
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
        """Create the directory; may be repeated.

        Others may pass through root's directory but not list it, because PostgreSQL runs there as another account.
        """
        mode = 0o711 if os.geteuid() == 0 else 0o700
        self.root.mkdir(parents=True, exist_ok=True)
        if self.root.stat().st_uid == os.geteuid():
            self.root.chmod(mode)
        (self.root / "logs").mkdir(mode=0o700, exist_ok=True)

    def purge(self) -> None:
        """Remove the stack's own entries, and the directory if it is empty then; may be repeated."""
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
def locked(path: Path, *, wait_s_max: float | None = None) -> Iterator[None]:
    """Hold a lock on the file; the kernel releases it when the process ends, however it ends.

    Raises LockHeldError when another process still holds it after `wait_s_max` seconds; None waits without a limit.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        _lock(file, path, wait_s_max)
        try:
            yield
        finally:
            flock(file, LOCK_UN)


def _lock(file: IO[str], path: Path, wait_s_max: float | None) -> None:
    if wait_s_max is None:
        flock(file, LOCK_EX)
        return
    deadline = time.monotonic() + wait_s_max
    while True:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise LockHeldError(str(path)) from error
            time.sleep(_LOCK_POLL_S)
        else:
            return


def cache_home() -> Path:
    """Return the directory of downloads and builds, shared by all stacks of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
