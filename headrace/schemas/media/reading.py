"""Reads a file from its beginning to its end, in chunks of any size, without holding it.

A parser is a generator. It yields what it wants of the bytes that follow, and gets it: `Take` some bytes, `Skip` some,
compute the `Crc` of some, or go `Until` a pattern. A file that ends first raises EndOfFileError in the parser.
"""

import zlib
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

TAKE_BYTES_MAX = 4 * 1024 * 1024

T = TypeVar("T")


class EndOfFileError(Exception):
    """The file of `size_bytes` ends before what the parser wants."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"the file ends after {size_bytes} bytes")
        self.size_bytes = size_bytes


@dataclass(slots=True)
class Take:
    """The next bytes, at most TAKE_BYTES_MAX."""

    size: int


@dataclass(slots=True)
class Skip:
    """Nothing of the next bytes."""

    size: int


@dataclass(slots=True)
class Crc:
    """The CRC-32 of the next bytes, which continues from `value`."""

    size: int
    value: int = 0


@dataclass(slots=True)
class Until:
    """All bytes up to and with a pattern; answers how often `counted`, of the same length, comes before it."""

    pattern: bytes
    counted: bytes = b""
    count: int = field(default=0, init=False)


Wanted: TypeAlias = Take | Skip | Crc | Until
Parser: TypeAlias = Generator[Wanted, Any, T]


class StreamReader(Generic[T]):
    """Feeds one parser; `feed` every chunk, then `finish`.

    What the parser raises is raised by `finish`, so that a reader of the bytes need not stop for it.
    """

    def __init__(self, parser: Parser[T]) -> None:
        self._parser = parser
        self._held = bytearray()
        self._result: T | None = None
        self._error: Exception | None = None
        self._wanted: Wanted | None = None
        self._size_bytes = 0
        self._resume(lambda: next(parser))

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the file."""
        self._size_bytes += len(chunk)
        at = 0
        while self._wanted is not None:
            done, at, answer = self._serve(self._wanted, chunk, at)
            if not done:
                return
            self._resume(lambda answer=answer: self._parser.send(answer))

    def finish(self) -> T:
        """Return the parser's result, or raise its error, once the file ended."""
        while self._wanted is not None:
            self._resume(lambda: self._parser.throw(EndOfFileError(self._size_bytes)))
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def _resume(self, step: Any) -> None:
        try:
            self._wanted = step()
        except StopIteration as end:
            self._wanted, self._result = None, end.value
        except Exception as error:  # noqa: BLE001 - `finish` raises it
            self._wanted, self._error = None, error
        self._held.clear()

    def _serve(self, wanted: Wanted, chunk: bytes, at: int) -> tuple[bool, int, Any]:
        """Return whether the parser gets what it wants of the chunk from `at` on, where that ends, and the answer."""
        if isinstance(wanted, Until):
            return self._search(wanted, chunk, at)
        if isinstance(wanted, Take):
            end = min(at + wanted.size - len(self._held), len(chunk))
            self._held += chunk[at:end]
            done = len(self._held) >= wanted.size
            return done, end, bytes(self._held) if done else None
        end = min(at + wanted.size, len(chunk))
        wanted.size -= end - at
        if isinstance(wanted, Crc):
            wanted.value = zlib.crc32(memoryview(chunk)[at:end], wanted.value)
            return wanted.size == 0, end, wanted.value
        return wanted.size == 0, end, None

    def _search(self, wanted: Until, chunk: bytes, at: int) -> tuple[bool, int, int]:
        # A pattern may begin in the last bytes of the chunk before.
        kept = len(self._held)
        joint = bytes(self._held) + chunk[at : at + len(wanted.pattern) - 1]
        if kept and (found := joint.find(wanted.pattern)) >= 0:
            return True, at + found + len(wanted.pattern) - kept, wanted.count
        found = chunk.find(wanted.pattern, at)
        if wanted.counted:
            wanted.count += chunk.count(wanted.counted, at, found if found >= 0 else len(chunk))
            wanted.count += joint.count(wanted.counted) if kept else 0
        if found >= 0:
            return True, found + len(wanted.pattern), wanted.count
        overlap = len(wanted.pattern) - 1
        self._held[:] = (joint if len(chunk) - at < overlap else chunk[at:])[-overlap:] if overlap else b""
        return False, len(chunk), wanted.count
