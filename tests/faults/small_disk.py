"""Small file systems that can be filled: memory mounted where a part of the stack keeps its data."""

import errno
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from headrace.native import postgres
from headrace.native.layout import StateDir
from tests.faults.possible import NotPossibleError

MIB = 1024 * 1024
_STEPS_BYTES = (16 * MIB, MIB, 64 * 1024, 4096)
_FILL_EVERY_S = 0.1
_UNMOUNT_TRIES = 20
_UNMOUNT_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A file system of its own, mounted at `path`."""

    path: Path

    @property
    def free_bytes(self) -> int:
        """How much fits into it."""
        usage = os.statvfs(self.path)
        return usage.f_bavail * usage.f_frsize

    def fill(self) -> None:
        """Take what is left, to the last block; may be repeated, because others give some back meanwhile."""
        descriptor = os.open(self._ballast, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            size = os.fstat(descriptor).st_size
            for step in _STEPS_BYTES:
                with suppress(_DiskFullError):
                    while True:
                        _take(descriptor, size, step)
                        size += step
        finally:
            os.close(descriptor)

    def keep_full(self, seconds: float) -> None:
        """Take whatever is given back, for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.fill()
            time.sleep(_FILL_EVERY_S)

    def free(self) -> None:
        """Give everything back; may be repeated."""
        self._ballast.unlink(missing_ok=True)

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"


SmallDisks: TypeAlias = Mapping[str, SmallDisk]
"""By the name of the part: postgres, kafka, minio or spool."""


class _DiskFullError(Exception):
    """Nothing more fits."""


@contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[SmallDisk]:
    """Mount a file system of that size at a directory, which is made where it is not there, and unmount it afterwards.

    Raises NotPossibleError where this process may not mount.
    """
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or unmount is None:
        raise NotPossibleError("a small file system needs root and the program `mount`")
    made = not path.exists()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            [mount, "-t", "tmpfs", "-o", f"size={size_mib}m,mode=0700", "tmpfs", str(path)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise NotPossibleError(f"a small file system could not be mounted: {done.stderr.strip()[:200]}")
        try:
            yield SmallDisk(path)
        finally:
            _unmount(unmount, path)
    finally:
        if made:
            with suppress(OSError):
                path.rmdir()


@contextmanager
def prepare(state_dir: Path, parts: frozenset[str], size_mib: int) -> Iterator[SmallDisks]:
    """Give parts of a stack that was not started yet a small disk each.

    Raises NotPossibleError where this process may not mount.
    """
    state = StateDir.at(state_dir)
    state.create()
    with ExitStack() as stack:
        disks = {part: stack.enter_context(small_disk(_place(state, part), size_mib)) for part in sorted(parts)}
        yield MappingProxyType(disks)


def _place(state: StateDir, part: str) -> Path:
    match part:
        case "kafka" | "minio":
            return state.part(part)
        case "postgres":
            user = postgres.account()
            return state.part(part) if user is None or postgres.can_pass(state.root, user) else state.outside
        case "spool":
            return state.root.with_name("spool")
        case _:
            raise ValueError(f"no part {part} has data")


def _take(descriptor: int, offset: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, offset, size)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _DiskFullError from None
        raise


def _unmount(program: str, path: Path) -> None:
    for _ in range(_UNMOUNT_TRIES):
        if subprocess.run([program, str(path)], check=False, capture_output=True).returncode == 0:
            return
        time.sleep(_UNMOUNT_EVERY_S)
    # Somebody still holds a file there: it disappears once that is closed.
    subprocess.run([program, "-l", str(path)], check=False, capture_output=True)
