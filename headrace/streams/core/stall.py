"""Which partition has work waiting and stands still for longest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

Partition: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """How far a partition is: the group's committed offset and the topic's end."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        """Messages between the two."""
        return max(0, self.end - self.committed)


@dataclass(slots=True)
class Stall:
    """Remembers since when each lagging partition has not moved; times are passed in, in seconds."""

    _since: dict[Partition, tuple[int, float]] = field(default_factory=dict)

    def observe(self, now_s: float, standings: Mapping[Partition, Standing]) -> tuple[Partition, int] | None:
        """Take in where the partitions are; return the longest-standing one with its offset, or None if all move."""
        still: dict[Partition, tuple[int, float]] = {}
        for partition, standing in standings.items():
            if standing.lag:
                offset, since = self._since.get(partition, (standing.committed, now_s))
                still[partition] = (standing.committed, since if offset == standing.committed else now_s)
        self._since = still
        if not still:
            return None
        longest = min(still, key=lambda partition: still[partition][1])
        return longest, still[longest][0]
