"""The state file of a run: what was about to be stored, so that a run which was ended goes on where it stopped.

A line is written before its commit, and says where the sighting will stand. Whether the commit came to pass is asked of
the catalog when the file is read again. So no URL whose bytes are stored is fetched again, however the run ended, and
none is taken for stored that is not. Of a URL the file holds a digest, since a URL may hold a key.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedReader, FileIO
from pathlib import Path
from uuid import UUID

import orjson

from headrace.batch.fetch.asset import FETCHED, OFFSET_BITS
from headrace.batch.fetch.outcome import FetchResult
from headrace.batch.fetch.url import WebUrl
from headrace.runtime.errors import Exit, HeadraceError
from headrace.store.requests.ingest_status import IngestStatuses, MessageRef

_HEAD = {"headrace": "ingest-urls", "version": 1}
_LINE_BYTES_MAX = 256 * 1024  # a URL as it is shown has at most 48 KiB; a file without lines is not read as one
_ASK_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class _Line:
    at: int
    url: bytes
    offset: int
    result: FetchResult


class FetchState:
    """One state file, held by one run."""

    def __init__(self, path: Path) -> None:
        """Open a file, or make it.

        Raises:
            HeadraceError: another run holds it, it is none of ours, or it cannot be written.
        """
        self._path = path
        # Where the line of a URL begins: of millions of URLs their results would fill the memory.
        self._known: dict[bytes, int] = {}
        try:
            self._file = _opened(path)
        except OSError as error:
            raise _unusable(path, error.strerror or type(error).__name__) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._begin()
        except BlockingIOError:
            self._file.close()
            raise _unusable(path, "another run is at work with it") from None
        except OSError as error:
            self._file.close()
            raise _unusable(path, error.strerror or type(error).__name__) from None
        except HeadraceError:
            self._file.close()
            raise

    def close(self) -> None:
        """Let another run have it."""
        self._file.close()

    async def confirm(self, landings: IngestStatuses) -> None:
        """Ask the catalog which of the lines' commits came to pass; raises CatalogUnavailable or CatalogRefused."""
        some: list[_Line] = []
        for line in self._lines():
            some.append(line)
            if len(some) == _ASK_AT_ONCE:
                await self._ask(landings, some)
                some = []
        await self._ask(landings, some)

    def known(self, url: WebUrl) -> FetchResult | None:
        """Return what a URL became in an earlier run, or earlier in this one."""
        at = self._known.get(_key(url))
        if at is None:
            return None
        line = os.pread(self._file.fileno(), _LINE_BYTES_MAX, at).partition(b"\n")[0]
        return _line(at, line, self._path).result

    def note(self, url: WebUrl, offset: int, result: FetchResult) -> int:
        """Write what is about to be committed, and return where that stands.

        Raises:
            HeadraceError: it cannot be written.
        """
        line = orjson.dumps({"url": _key(url).hex(), "offset": offset, "result": result.as_dict()}) + b"\n"
        at = self._end
        left = memoryview(line)
        try:
            self._file.seek(at)  # behind the last whole line, also after one that a full disk has cut
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            raise HeadraceError(
                "state_unwritable",
                f"the state file cannot be written: {error.strerror}",
                where=str(self._path),
                hint="make room, and run the command again with the same file: it goes on from there",
            ) from None
        self._end += len(line)
        return at

    def stored(self, url: WebUrl, at: int) -> None:
        """Know that what was noted there was committed."""
        self._known[_key(url)] = at

    async def _ask(self, landings: IngestStatuses, lines: Sequence[_Line]) -> None:
        if not lines:
            return
        places = [MessageRef(FETCHED, 0, line.offset, UUID(line.result.id), 0.0) for line in lines]
        for line, outcome in zip(lines, await landings.outcomes(places), strict=True):
            if outcome.ingested:
                self._known[line.url] = line.at

    def _begin(self) -> int:
        """Read the head, or write it; return where the last whole line ends, and remove one that was torn off."""
        with self._read() as file:
            head = file.readline(_LINE_BYTES_MAX)
            if not head:
                head = orjson.dumps(_HEAD) + b"\n"
                self._file.write(head)
            elif _parsed(head) != _HEAD:
                raise _unusable(self._path, "it is no state file of this command")
            end = len(head)
            for line in file:
                if line.endswith(b"\n"):
                    end += len(line)
        self._file.truncate(end)
        return end

    def _lines(self) -> Iterator[_Line]:
        with self._read() as file:
            at = len(file.readline())
            for line in file:
                yield _line(at, line, self._path)
                at += len(line)

    def _read(self) -> BufferedReader:
        """Read from the beginning."""
        self._file.seek(0)
        return open(self._file.fileno(), "rb", closefd=False)


def _opened(path: Path) -> FileIO:
    # Not "a+b": a torn end is cut off, and a file that is there must not be emptied. No buffer: what is written is the
    # system's, so it outlives this process, and what a full disk refuses is not written later, behind our back.
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")


def _line(at: int, line: bytes, path: Path) -> _Line:
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        said = orjson.loads(line)
        found = _Line(at, bytes.fromhex(said["url"]), said["offset"], FetchResult(**said["result"]))
        UUID(found.result.id)
        if 0 <= found.offset < 1 << OFFSET_BITS:
            return found
    raise _unusable(path, "it holds a line that this command did not write")


def _key(url: WebUrl) -> bytes:
    return sha256(url.text.encode()).digest()[:16]


def _parsed(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _unusable(path: Path, why: str) -> HeadraceError:
    return HeadraceError(
        "state_unusable",
        f"the state file cannot be used: {why}",
        where=str(path),
        hint="name another file, or wait until the other run has ended",
        exit_code=Exit.USAGE,
    )
