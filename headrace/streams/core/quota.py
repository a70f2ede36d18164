"""Stop when messages of several sources are rejected: that is more likely a bad deploy than bad sources."""

from collections import Counter, deque
from dataclasses import dataclass, field

from headrace.schemas.catalog_rows import Outcomes, SourceKey


@dataclass(slots=True)
class Quota:
    """Counts good messages and dead letters within the last `window_s` seconds; times are passed in, in seconds.

    Each source counts for at most half the quota, so that one bad source cannot halt the others. A batch that is the
    first with dead letters within the window always passes, so that each window makes progress.
    """

    dead_letters_max: int
    window_s: float
    _seen: deque[tuple[float, Outcomes]] = field(default_factory=deque)
    _good: int = 0
    _bad: Counter[SourceKey] = field(default_factory=Counter)
    _counted: int = 0  # dead letters, of each source at most half the quota

    def count(self, now_s: float, outcomes: Outcomes) -> None:
        """Count messages, and forget those that are older than the window."""
        self._forget(now_s)
        self._seen.append((now_s, outcomes))
        self._add(outcomes, sign=1)

    def exceeded(self, now_s: float, outcomes: Outcomes) -> bool:
        """Count a batch; return whether it has dead letters, and those of the window exceed the quota and the good."""
        self._forget(now_s)
        is_first = not self._bad
        self.count(now_s, outcomes)
        exceeds = self._counted > self.dead_letters_max and self._counted > self._good
        return exceeds and bool(outcomes.bad) and not is_first

    def _forget(self, now_s: float) -> None:
        while self._seen and self._seen[0][0] <= now_s - self.window_s:
            self._add(self._seen.popleft()[1], sign=-1)

    def _add(self, outcomes: Outcomes, *, sign: int) -> None:
        self._good += sign * outcomes.good
        for source, count in outcomes.bad.items():
            self._counted -= self._share(self._bad[source])
            self._bad[source] += sign * count
            self._counted += self._share(self._bad[source])
            if not self._bad[source]:
                del self._bad[source]

    def _share(self, count: int) -> int:
        return min(count, (self.dead_letters_max + 1) // 2)
