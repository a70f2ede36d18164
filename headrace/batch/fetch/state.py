"""The state file of a run, from which a later run resumes.

A line is written before its commit and holds the offset of the sighting. When the file is read again, the catalog tells
which commits succeeded. So no stored URL is fetched again, however the run ended, and no URL counts as stored that is
not. The file holds digests of URLs, since a URL may contain a secret.
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

_HEADER = {"headrace": "ingest-urls", "version": 1}
_LINE_BYTES_MAX = 256 * 1024  # a redacted URL has at most 48 KiB; this bounds the memory for other files
_CONFIRM_LINES = 1000


@dataclass(frozen=True, slots=True)
class StateLine:
    """The line of one URL (by its digest) at a position of the file."""

    position: int
    url: bytes
    offset: int
    result: FetchResult


class FetchState:
    """An open state file, locked by one run."""

    def __init__(self, path: Path) -> None:
        """Open and lock a file, or create it.

        Raises:
            HeadraceError: another run holds the lock, it is not a state file, or it cannot be written.
        """
        self._path = path
        # The position of each URL's line: the results of millions of URLs would not fit into memory.
        self._positions: dict[bytes, int] = {}
        try:
            self._file = _open_file(path)
        except OSError as error:
            raise _unusable(path, error.strerror or type(error).__name__) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._read_header()
        except BlockingIOError:
            self._file.close()
            raise _unusable(path, "another run uses it") from None
        except OSError as error:
            self._file.close()
            raise _unusable(path, error.strerror or type(error).__name__) from None
        except HeadraceError:
            self._file.close()
            raise

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    async def confirm(self, statuses: IngestStatuses) -> None:
        """Look up which lines were committed; raises CatalogUnavailableError or CatalogRefusedError."""
        lines: list[StateLine] = []
        for line in self._lines():
            lines.append(line)
            if len(lines) == _CONFIRM_LINES:
                await self._confirm_lines(statuses, lines)
                lines = []
        await self._confirm_lines(statuses, lines)

    def result_of(self, url: WebUrl) -> FetchResult | None:
        """Return the result of a URL that this run or an earlier one has stored."""
        position = self._positions.get(_url_digest(url))
        if position is None:
            return None
        line = os.pread(self._file.fileno(), _LINE_BYTES_MAX, position).partition(b"\n")[0]
        return _parse_line(position, line, self._path).result

    def write(self, url: WebUrl, offset: int, result: FetchResult) -> int:
        """Write the line of a URL before its commit, and return the line's position.

        Raises:
            HeadraceError: the file cannot be written.
        """
        line = orjson.dumps({"url": _url_digest(url).hex(), "offset": offset, "result": result.as_dict()}) + b"\n"
        position = self._end
        unwritten = memoryview(line)
        try:
            self._file.seek(position)  # after the last complete line, which overwrites one that a full disk has cut
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise HeadraceError(
                "state_unwritable",
                f"cannot write the state file: {error.strerror}",
                where=str(self._path),
                hint="free some disk space and run the command again with the same file; it resumes",
            ) from None
        self._end += len(line)
        return position

    def mark_committed(self, url: WebUrl, position: int) -> None:
        """Record that the line at a position was committed."""
        self._positions[_url_digest(url)] = position

    async def _confirm_lines(self, statuses: IngestStatuses, lines: Sequence[StateLine]) -> None:
        if not lines:
            return
        refs = [MessageRef(FETCHED, 0, line.offset, UUID(line.result.id), 0.0) for line in lines]
        for line, outcome in zip(lines, await statuses.outcomes(refs), strict=True):
            if outcome.ingested:
                self._positions[line.url] = line.position

    def _read_header(self) -> int:
        """Read or write the header, truncate a partial last line, and return the end of the last complete one."""
        with self._reader() as file:
            header = file.readline(_LINE_BYTES_MAX)
            if not header:
                header = orjson.dumps(_HEADER) + b"\n"
                self._file.write(header)
            elif _parse_json(header) != _HEADER:
                raise _unusable(self._path, "it is not a state file of this command")
            end = len(header)
            for line in file:
                if line.endswith(b"\n"):
                    end += len(line)
        self._file.truncate(end)
        return end

    def _lines(self) -> Iterator[StateLine]:
        with self._reader() as file:
            position = len(file.readline())
            for line in file:
                yield _parse_line(position, line, self._path)
                position += len(line)

    def _reader(self) -> BufferedReader:
        """Return a reader at the start of the file."""
        self._file.seek(0)
        return open(self._file.fileno(), "rb", closefd=False)


def _open_file(path: Path) -> FileIO:
    # Not "a+b", because a partial line is truncated. Unbuffered, so that written bytes outlive this process, and bytes
    # that a full disk has refused are not written later.
    return FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b")


def _parse_line(position: int, text: bytes, path: Path) -> StateLine:
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        fields = orjson.loads(text)
        line = StateLine(position, bytes.fromhex(fields["url"]), fields["offset"], FetchResult(**fields["result"]))
        UUID(line.result.id)
        if 0 <= line.offset < 1 << OFFSET_BITS:
            return line
    raise _unusable(path, "it contains a line that this command did not write")


def _url_digest(url: WebUrl) -> bytes:
    return sha256(url.text.encode()).digest()[:16]


def _parse_json(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _unusable(path: Path, reason: str) -> HeadraceError:
    return HeadraceError(
        "state_unusable",
        f"cannot use the state file: {reason}",
        where=str(path),
        hint="choose another file, or wait until the other run has finished",
        exit_code=Exit.USAGE,
    )
