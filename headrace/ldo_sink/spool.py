"""LDOs on the disk until they are sent: one file each, whole and on the disk before it has its name.

Each process has a directory of its own below the spool's, held by a lock; what a process that ended left in another one
is taken over at the start.
"""

import errno
import os
import shutil
import stat
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from headrace.ldo_sink.request import form_head, form_tail
from headrace.runtime.durable_files import durable_file, try_lock

_PROCESSES_MAX = 256
_SUFFIX = ".ldo"
_UNFINISHED = ".part"
_BLOCK_BYTES = 4096
_COPY_BYTES = 256 * 1024


class SpoolFullError(Exception):
    """There is no room for another LDO."""


class LdoSpool:
    """Files in the order in which they came; for any thread. Every method may raise OSError."""

    def __init__(self, directory: Path, bytes_max: int, *, is_temporary: bool = False) -> None:
        """Take a directory of our own, and what was left in those that nobody has any more.

        A temporary spool belongs to one process, and is removed when it is closed with nothing left.
        """
        self._bytes_max = bytes_max
        self._temporary = directory if is_temporary else None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._lock = _own(directory)
        # Ordered, because the first of a dict is found behind all that were ever taken from its front.
        left = sorted(self._path.glob(f"*{_SUFFIX}"))
        self._sizes = OrderedDict((path, _taken(path.stat().st_size)) for path in left)
        self._bytes = sum(self._sizes.values())
        self._knowing = threading.Lock()  # of _sizes and _bytes

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, metadata: bytes, video: bytes | Path | None) -> None:
        """Keep an LDO; of a video that grows meanwhile, what it was at the beginning.

        Raises:
            SpoolFull. OSError: the video cannot be read or is no file, or the disk is full.
        """
        if not isinstance(video, Path):
            self._add(metadata, BytesIO(video or b""), len(video or b""))
            return
        with open(video, "rb", opener=_at_once) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "the video is no file", str(video))  # it may have no end
            self._add(metadata, file, state.st_size)

    def _add(self, metadata: bytes, video: BinaryIO, video_bytes: int) -> None:
        with self._knowing:
            if self._bytes + _taken(len(metadata) + video_bytes) > self._bytes_max:
                raise SpoolFullError
        boundary = uuid.uuid4().hex
        path = self._path / f"{time.time_ns():020d}-{boundary}{_SUFFIX}"
        with durable_file(path, path.with_suffix(_UNFINISHED)) as file:
            file.write(form_head(boundary, metadata, has_video=video_bytes > 0))
            left = video_bytes
            while left and (chunk := video.read(min(left, _COPY_BYTES))):
                left -= file.write(chunk)
            file.write(form_tail(boundary))
            size = _taken(file.tell())
        with self._knowing:
            self._sizes[path] = size
            self._bytes += size

    def first(self) -> Path | None:
        """Return the oldest; None where there is none."""
        with self._knowing:
            return next(iter(self._sizes), None)

    def remove(self, path: Path) -> None:
        """Forget one that was sent or refused."""
        path.unlink(missing_ok=True)
        with self._knowing:
            self._bytes -= self._sizes.pop(path, 0)

    def put_last(self, path: Path) -> None:
        """Set one behind the others, under a new time and the same key."""
        later = path.with_name(f"{time.time_ns():020d}-{boundary_of(path)}{_SUFFIX}")
        path.rename(later)
        with self._knowing:
            self._sizes[later] = self._sizes.pop(path)

    def close(self) -> None:
        """Let another process have what is left; may be repeated."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)
            if self._temporary is not None and not self._sizes:
                shutil.rmtree(self._temporary, ignore_errors=True)


def boundary_of(path: Path) -> str:
    """Return the boundary of a file's body, which is its idempotency key too."""
    return path.stem.partition("-")[2]


def _at_once(path: str, flags: int) -> int:
    """Open a file without waiting, as a pipe would have us wait for who writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def _taken(size_bytes: int) -> int:
    """Return what a file takes of a disk: small ones take a whole block."""
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _own(directory: Path) -> tuple[Path, int]:
    own: tuple[Path, int] | None = None
    for path, lock in _free(directory):
        for unfinished in path.glob(f"*{_UNFINISHED}"):
            unfinished.unlink()
        if own is None:
            own = path, lock
            continue
        for left in path.glob(f"*{_SUFFIX}"):
            left.rename(own[0] / left.name)
        os.close(lock)
    if own is None:
        raise OSError(f"more than {_PROCESSES_MAX} processes use {directory}")
    return own


def _free(directory: Path) -> Iterator[tuple[Path, int]]:
    """Yield the directories that no process has, locked; at least one of them new where there are none."""
    found = False
    for number in range(_PROCESSES_MAX):
        path = directory / f"{number:03d}"
        if not path.is_dir():
            if found:
                return
            path.mkdir(mode=0o700, exist_ok=True)
        lock = try_lock(path, os.O_RDONLY | os.O_DIRECTORY)
        if lock is not None:
            found = True
            yield path, lock
