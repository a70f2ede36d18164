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
    """What a spool knows beside its entries. It is replaced as a whole, so it is never half written.

    Everything below `acknowledged` needs no sending. `gaps` are runs [from, to) that were dropped; `dropped` counts
    them by source, and `damaged` counts the entries that could not be read again.
    """

    salt: str
    acknowledged: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    damaged: int = 0
    gaps: list[list[int]] = field(default_factory=list)

    @classmethod
    def read(cls, directory: Path) -> Self | None:
        """Return the saved state, or None where there is none, or none that can be relied on."""
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
            OSError: as every use of a disk.
        """
        line = orjson.dumps(vars(self) | {"dropped": dict(self.dropped)})
        with durable_file(directory / STATE, directory / (STATE + ".new")) as file:
            file.write(line + b"\n%08x" % crc32(line))

    def missing(self, start: int, end: int) -> int:
        """Return how many of the numbers [start, end) were neither acknowledged nor dropped."""
        start = max(start, self.acknowledged)
        known = sum(max(0, min(end, upto) - max(start, since)) for since, upto in self.gaps)
        return max(0, end - start) - known
