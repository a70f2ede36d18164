"""Reads the end of a stack's log files, and what is appended to them."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from headrace.native.layout import StateDir

TAIL_BYTES_MAX = 512 * 1024
_POLL_S = 0.3


def log_names(state: StateDir) -> list[str]:
    """Return the processes that have a log, in alphabetical order."""
    return sorted(path.name.removesuffix(".log") for path in (state.root / "logs").glob("*.log"))


class LogTail:
    """The end of one log file, read on from where it was read last; starts anew where the file was emptied."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self._rest = b""

    def last(self) -> list[str]:
        """Return the lines within the last `TAIL_BYTES_MAX` bytes."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return []
        self._position = max(0, size - TAIL_BYTES_MAX)
        is_cut = self._position > 0
        lines = self.appended()
        return lines[1:] if is_cut else lines

    def appended(self) -> list[str]:
        """Return the whole lines since the last call."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._position:
                    self._position, self._rest = 0, b""
                file.seek(self._position)
                data = self._rest + file.read()
                self._position = file.tell()
        except FileNotFoundError:
            return []
        *whole, self._rest = data.split(b"\n")
        return [line.decode("utf-8", "replace").rstrip("\r") for line in whole]


def followed(tails: Sequence[tuple[str, LogTail]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines that are appended, with the name of their process, for ever."""
    while True:
        for name, tail in tails:
            if lines := tail.appended():
                yield name, lines
        time.sleep(_POLL_S)
