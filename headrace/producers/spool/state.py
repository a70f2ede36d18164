"""What a spool keeps besides its entries: what is acknowledged, dropped or damaged."""

import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from zlib import crc32

import orjson

from headrace.runtime.durable_files import durable_file

STATE = "state.json"


@dataclass
class SpoolState:
    """A spool's state besides its entries; the file is replaced as a whole, so it is never half written.

    Every number below `acknowledged` is done. `gaps` are the ranges [from, to) that were dropped, or that could not be
    read and are counted. `dropped` counts dropped entries by source, and `damaged` those that could not be read.
    `spool_id` names the spool whose counts these are.
    """

    salt: str
    acknowledged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    gaps: list[list[int]] = field(default_factory=list)
    spool_id: str = field(default_factory=lambda: os.urandom(8).hex())

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Return the saved state, or None if there is none or it is damaged."""
        with suppress(OSError, ValueError, TypeError, orjson.JSONDecodeError):
            line, _, declared = (directory / STATE).read_bytes().rpartition(b"\n")
            if int(declared, 16) == crc32(line):
                state = cls(**orjson.loads(line))
                state.dropped = Counter(state.dropped)
                return state
        return None

    def save(self, directory: Path) -> None:
        """Replace the saved state, durably.

        Raises:
            OSError: the disk failed.
        """
        line = orjson.dumps(vars(self) | {"dropped": dict(self.dropped)})
        with durable_file(directory / STATE, directory / (STATE + ".new")) as file:
            file.write(line + b"\n%08x" % crc32(line))

    def missing(self, start: int, end: int) -> int:
        """Return how many of the numbers [start, end) are neither acknowledged nor in a gap."""
        start = max(start, self.acknowledged)
        known = sum(max(0, min(end, upto) - max(start, since)) for since, upto in self.gaps)
        return max(0, end - start) - known

    def skip(self, start: int, end: int) -> None:
        """Add the numbers [start, end) to the gaps, merged with those that overlap: each number is in one gap."""
        apart = []
        for gap in self.gaps:
            if gap[0] < end and start < gap[1]:
                start, end = min(start, gap[0]), max(end, gap[1])
            else:
                apart.append(gap)
        self.gaps = [*apart, [start, end]]
