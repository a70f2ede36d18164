import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from headrace.producers.spool.entries import (
    HEAD_BYTES,
    MARKER,
    START_BYTES,
    ScannedEntries,
    entries,
    entry_at,
    salt_of_segment,
    size_of_entry,
    start_of_segment,
    unpack,
)
from headrace.producers.spool.state import sync_directory

SUFFIX = ".segment"


@dataclass(eq=False)
class Segment:
    """A file of a spool: the numbers [first, end) as far as they can be read, and `size` bytes that are durable."""

    path: Path
    first: int
    end: int
    size: int
    descriptor: int
    sources: Counter[str] = field(default_factory=Counter)

    @classmethod
    def create(cls, directory: Path, salt: bytes, first: int) -> Self:
        """Begin a new file, durably."""
        path = directory / f"{first:020d}{SUFFIX}"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(descriptor, start_of_segment(salt, first))
            os.fsync(descriptor)
            sync_directory(directory)
        except OSError:
            os.close(descriptor)
            raise
        return cls(path, first, first, START_BYTES, descriptor)

    @classmethod
    def recover(cls, path: Path, salt: bytes) -> Self:
        """Read a file that an earlier process left, whatever became of it. Nothing in it is changed."""
        data = path.read_bytes()
        segment = cls(path, int(path.stem), int(path.stem), len(data), os.open(path, os.O_RDONLY))
        for found in entries(data, salt):
            segment.end = max(segment.end, found.number + 1)
            segment.sources[unpack(found.payload).key.decode(errors="replace")] += 1
        return segment

    def read(self, at: int, salt: bytes) -> ScannedEntries | None:
        """Return the first whole entry from a position on, its `end` within the file; None where none follows."""
        size = size_of_entry(os.pread(self.descriptor, HEAD_BYTES, at))
        if at + size <= self.size and (found := entry_at(os.pread(self.descriptor, size, at), 0, salt)) is not None:
            return ScannedEntries(found.number, at + found.end, found.payload)
        rest = os.pread(self.descriptor, max(0, self.size - at), at)
        found = next(entries(rest, salt, max(rest.find(MARKER, 1), 0) or len(rest)), None)
        return None if found is None else ScannedEntries(found.number, at + found.end, found.payload)

    def append(self, data: bytes) -> None:
        """Write behind what is durable; `size` does not change, so what fails is written over."""
        os.lseek(self.descriptor, self.size, os.SEEK_SET)
        write_all(self.descriptor, data)

    def cut(self) -> None:
        """Take back what was written but not made durable."""
        os.ftruncate(self.descriptor, self.size)

    def delete(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file; may be repeated."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, however many calls it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def segment_files(directory: Path) -> Iterator[Path]:
    """Return the segment files of a spool in their order."""
    yield from sorted(path for path in directory.glob(f"*{SUFFIX}") if path.stem.isdecimal())


def salt_in(path: Path) -> bytes | None:
    """Return the salt in a segment file, or None where its beginning is damaged."""
    with path.open("rb") as file:
        return salt_of_segment(file.read(START_BYTES))
