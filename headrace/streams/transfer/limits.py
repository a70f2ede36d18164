"""How fast bodies may come over a site's link: rates by the hour of the day, and the pace that holds them. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

HOURS = 24


@dataclass(frozen=True, slots=True)
class HoursLimit:
    """A rate for the hours (UTC) from `first` to before `end`, which may pass midnight; 0 stops everything."""

    first: int
    end: int
    bytes_per_s: float

    def covers(self, hour: int) -> bool:
        """Return whether it holds in this hour of the day."""
        return (hour - self.first) % HOURS < ((self.end - self.first) % HOURS or HOURS)


def rate_at(limits: Sequence[HoursLimit], hour: int) -> float | None:
    """Return the bytes per second of the first limit that covers the hour; None where there is no limit."""
    return next((limit.bytes_per_s for limit in limits if limit.covers(hour)), None)


class TokenBucket:
    """Says how long to wait before the next bytes, so that on average no more than a rate is used.

    It holds no tokens while nothing is sent: after a pause, the next bytes go at once, and those after them wait.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` returns seconds."""
        self._clock = clock
        self._free_at_s = clock()

    def take(self, size_bytes: int, bytes_per_s: float | None) -> float:
        """Take `size_bytes` at a rate above 0, or at none; return the seconds to wait before they are sent."""
        now_s = self._clock()
        start_s = max(now_s, self._free_at_s)
        self._free_at_s = start_s + (size_bytes / bytes_per_s if bytes_per_s else 0.0)
        return start_s - now_s
