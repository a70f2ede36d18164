"""The state file of a run: what was about to be stored, so that a run which was ended goes on where it stopped.

A line is written before its commit, and says where the sighting will stand. Whether the commit came to pass is asked of
the catalog when the file is read again. So no URL whose bytes are stored is fetched again, however the run ended, and
none is taken for stored that is not. Of a URL the file holds a digest, since a URL may hold a key.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from io import BufferedRandom
from pathlib import Path
from uuid import UUID

import orjson

from batch.fetching.asset import FETCHED
from batch.fetching.outcome import Result
from batch.fetching.url import WebUrl
from runtime.errors import Exit, HeadraceError
from store.landing import Landings, Place

_HEAD = {"headrace": "ingest-urls", "version": 1}
_ASK_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class _Line:
    url: bytes
    offset: int
    result: Result


class State:
    """One state file, held by one run."""

    def __init__(self, path: Path) -> None:
        """Open a file, or make it.

        Raises:
            HeadraceError: another run holds it, it is none of ours, or it cannot be written.
        """
        self._path = path
        self._known: dict[bytes, Result] = {}
        try:
            self._file = _opened(path)
        except OSError as error:
            raise _unusable(path, error.strerror or type(error).__name__) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._begin()
        except BlockingIOError:
            self._file.close()
            raise _unusable(path, "another run is at work with it") from None
        except HeadraceError:
            self._file.close()
            raise

    def close(self) -> None:
        """Let another run have it."""
        self._file.close()

    async def confirm(self, landings: Landings) -> None:
        """Ask the catalog which of the lines' commits came to pass; raises CatalogUnavailable or CatalogRefused."""
        some: list[_Line] = []
        for line in self._lines():
            some.append(line)
            if len(some) == _ASK_AT_ONCE:
                await self._ask(landings, some)
                some = []
        await self._ask(landings, some)

    def known(self, url: WebUrl) -> Result | None:
        """Return what a URL became in an earlier run, or earlier in this one."""
        return self._known.get(_key(url))

    def note(self, url: WebUrl, offset: int, result: Result) -> None:
        """Write what is about to be committed."""
        line = {"url": _key(url).hex(), "offset": offset, "result": result.as_dict()}
        self._file.write(orjson.dumps(line) + b"\n")
        self._file.flush()  # to the system: it outlives this process

    def stored(self, url: WebUrl, result: Result) -> None:
        """Know that it was committed."""
        self._known[_key(url)] = result

    async def _ask(self, landings: Landings, lines: Sequence[_Line]) -> None:
        if not lines:
            return
        places = [Place(FETCHED, 0, line.offset, UUID(line.result.id), 0.0) for line in lines]
        for line, outcome in zip(lines, await landings.outcomes(places), strict=True):
            if outcome.ingested:
                self._known[line.url] = line.result

    def _begin(self) -> None:
        """Read the head, or write it; a last line that was torn off is removed."""
        self._file.seek(0)
        head = self._file.readline()
        if not head:
            self._file.write(orjson.dumps(_HEAD) + b"\n")
            self._file.flush()
            return
        if _parsed(head) != _HEAD:
            raise _unusable(self._path, "it is no state file of this command")
        end = self._file.tell()
        for line in self._file:
            if line.endswith(b"\n"):
                end += len(line)
        self._file.truncate(end)
        self._file.seek(end)

    def _lines(self) -> Iterator[_Line]:
        self._file.seek(0)
        self._file.readline()
        for line in self._file:
            try:
                said = orjson.loads(line)
                yield _Line(bytes.fromhex(said["url"]), int(said["offset"]), Result(**said["result"]))
            except (ValueError, KeyError, TypeError):
                raise _unusable(self._path, "it holds a line that this command did not write") from None
        self._file.seek(0, os.SEEK_END)


def _opened(path: Path) -> BufferedRandom:
    # Not "a+b": a torn end is cut off, and a file that is there must not be emptied.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    return os.fdopen(descriptor, "r+b")


def _key(url: WebUrl) -> bytes:
    return sha256(url.text.encode()).digest()[:16]


def _parsed(line: bytes) -> object:
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _unusable(path: Path, why: str) -> HeadraceError:
    return HeadraceError(
        "state_unusable", f"the state file cannot be used: {why}", where=str(path),
        hint="name another file, or wait until the other run has ended", exit_code=Exit.USAGE,
    )  # fmt: skip
