"""Files that survive a crash, and locks that end with their process. Standard library only."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def durable_file(path: Path, unfinished: Path) -> Iterator[BinaryIO]:
    """Give a file to write, which replaces `path` once it is durable; `unfinished` is its name until then.

    `path` therefore holds either its former content or all that was written. Both must be in the same directory. If the
    block raises, `unfinished` is removed; a crash may leave it behind.

    Raises:
        OSError: the disk refuses.
    """
    try:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(path: Path, flags: int) -> int | None:
    """Open a file or directory and lock it; return the descriptor, or None if another process holds the lock.

    Closing the descriptor, or the end of the process, releases the lock.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
