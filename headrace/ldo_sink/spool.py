"""LDOs on disk until they are sent: one file each, durable before it gets its name.

A file may hold a video of any size, is deleted as soon as it is sent, and can be moved behind the others. The spool of
the publishers (`headrace/producers/spool`) is a log of small messages and offers none of these.

Each process locks a subdirectory of its own. At the start it takes over the files of processes that ended.
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
    """The spool has no room for another LDO."""


class LdoSpool:
    """Files in the order of arrival; thread-safe. Every method may raise OSError."""

    def __init__(self, directory: Path, bytes_max: int, *, is_temporary: bool = False) -> None:
        """Lock a subdirectory, and take over the files of processes that ended.

        A temporary spool belongs to one process, and is removed when it is closed empty.
        """
        self._bytes_max = bytes_max
        self._temporary = directory if is_temporary else None
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path, self._lock = _own_directory(directory)
        # Ordered: finding the first key of a dict takes time for every key removed before it.
        left = sorted(self._path.glob(f"*{_SUFFIX}"))
        self._sizes = OrderedDict((path, _disk_bytes(path.stat().st_size)) for path in left)
        self._bytes = sum(self._sizes.values())
        self._lock_sizes = threading.Lock()  # of _sizes and _bytes

    def __len__(self) -> int:
        return len(self._sizes)

    def add(self, metadata: bytes, video: bytes | Path | None) -> None:
        """Write an LDO to the spool; a video that grows meanwhile is cut at its initial size.

        Raises:
            SpoolFullError: no room. OSError: the video cannot be read or is not a file, or the disk is full.
        """
        if not isinstance(video, Path):
            self._add(metadata, BytesIO(video or b""), len(video or b""))
            return
        with open(video, "rb", opener=_without_blocking) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise OSError(errno.EINVAL, "the video is not a regular file", str(video))  # it may be endless
            self._add(metadata, file, state.st_size)

    def _add(self, metadata: bytes, video: BinaryIO, video_bytes: int) -> None:
        with self._lock_sizes:
            if self._bytes + _disk_bytes(len(metadata) + video_bytes) > self._bytes_max:
                raise SpoolFullError
        boundary = uuid.uuid4().hex
        path = self._path / f"{time.time_ns():020d}-{boundary}{_SUFFIX}"
        with durable_file(path, path.with_suffix(_UNFINISHED)) as file:
            file.write(form_head(boundary, metadata, has_video=video_bytes > 0))
            left = video_bytes
            while left and (chunk := video.read(min(left, _COPY_BYTES))):
                left -= file.write(chunk)
            file.write(form_tail(boundary))
            size = _disk_bytes(file.tell())
        with self._lock_sizes:
            self._sizes[path] = size
            self._bytes += size

    def first(self) -> Path | None:
        """Return the oldest file, or None if the spool is empty."""
        with self._lock_sizes:
            return next(iter(self._sizes), None)

    def remove(self, path: Path) -> None:
        """Delete a file that was sent or refused."""
        path.unlink(missing_ok=True)
        with self._lock_sizes:
            self._bytes -= self._sizes.pop(path, 0)

    def put_last(self, path: Path) -> None:
        """Move a file behind the others, under a new time and the same key."""
        later = path.with_name(f"{time.time_ns():020d}-{boundary_of(path)}{_SUFFIX}")
        path.rename(later)
        with self._lock_sizes:
            self._sizes[later] = self._sizes.pop(path)

    def forget(self) -> None:
        """Close the descriptor of the lock, as a child process does: lock and files are the parent's."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def close(self) -> None:
        """Release the lock, so that another process takes over the files; may be repeated."""
        is_held = self._lock >= 0
        self.forget()
        if is_held and self._temporary is not None and not self._sizes:
            shutil.rmtree(self._temporary, ignore_errors=True)


def boundary_of(path: Path) -> str:
    """Return the boundary of a file's body, which is also its idempotency key."""
    return path.stem.partition("-")[2]


def _without_blocking(path: str, flags: int) -> int:
    """Open a file without blocking; opening a pipe would wait for its writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _disk_bytes(size_bytes: int) -> int:
    """Return the space of a file on disk, in whole blocks."""
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


def _own_directory(directory: Path) -> tuple[Path, int]:
    own: tuple[Path, int] | None = None
    for path, lock in _free_directories(directory):
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


def _free_directories(directory: Path) -> Iterator[tuple[Path, int]]:
    """Lock and yield the subdirectories that no process holds; create one if there are none."""
    any_free = False
    for number in range(_PROCESSES_MAX):
        path = directory / f"{number:03d}"
        if not path.is_dir():
            if any_free:
                return
            path.mkdir(mode=0o700, exist_ok=True)
        lock = try_lock(path, os.O_RDONLY | os.O_DIRECTORY)
        if lock is not None:
            any_free = True
            yield path, lock
