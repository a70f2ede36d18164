"""Messages that Kafka will never take, each in a segment file of its own, so that none is lost without a trace.

The files are named by the messages' numbers in the spool. Of two copies, which a crash between the writing and the
acknowledgement leaves, the second replaces the first.
"""

import os
from collections import Counter
from pathlib import Path

from headrace.producers.spool.segments import (
    START_BYTES,
    SUFFIX,
    Segment,
    SpoolEntry,
    pack_entry,
    segment_files,
    unpack,
)
from headrace.runtime.durable_files import sync_directory


class Quarantine:
    """The quarantine of one spool, of at most `bytes_max` bytes. Raises OSError where the disk fails."""

    def __init__(self, directory: Path, salt: bytes, bytes_max: int) -> None:
        """Use a directory, which is made with the first message."""
        self._directory = directory
        self._salt = salt
        self._bytes_max = bytes_max

    def numbers(self) -> list[int]:
        """Return the numbers of the messages that are kept, in order."""
        return [int(path.stem) for path in segment_files(self._directory)]

    def add(self, number: int, message: SpoolEntry) -> Counter[str]:
        """Keep a message, durably; return how many others were dropped for it, by source."""
        if not self._directory.is_dir():
            self._directory.mkdir()
            sync_directory(self._directory.parent)
        data = pack_entry(self._salt, number, message)
        dropped = self._make_room(len(data), keep=number)
        segment = Segment.create(self._directory, self._salt, number)
        try:
            segment.append(data)
            os.fsync(segment.descriptor)
        finally:
            segment.close()
        return dropped

    def read(self, number: int) -> SpoolEntry | None:
        """Return a message, or None if its file is damaged."""
        segment = Segment.recover(self._path(number), self._salt)
        try:
            entry = segment.read(START_BYTES, self._salt)
        finally:
            segment.close()
        return None if entry is None else unpack(entry.payload)

    def remove(self, number: int) -> None:
        """Delete a message; may be repeated."""
        self._path(number).unlink(missing_ok=True)

    def _make_room(self, size_bytes: int, *, keep: int) -> Counter[str]:
        sizes = {path: path.stat().st_size for path in segment_files(self._directory) if int(path.stem) != keep}
        dropped: Counter[str] = Counter()
        for path, file_bytes in list(sizes.items()):
            if sum(sizes.values()) + size_bytes <= self._bytes_max:
                break
            message = self.read(int(path.stem))
            dropped[message.key.decode(errors="replace") if message is not None else ""] += 1
            path.unlink()
            sizes[path] -= file_bytes
        return dropped

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:020d}{SUFFIX}"
