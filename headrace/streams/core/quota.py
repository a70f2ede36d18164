"""Stop when too many messages are rejected: that is more likely a bad deploy than bad sources."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Quota:
    """Counts good messages and dead letters within the last `window_s` seconds; times are passed in, in seconds."""

    dead_letters_max: int
    window_s: float
    _seen: deque[tuple[float, int, int]] = field(default_factory=deque)
    _good: int = 0
    _bad: int = 0

    def exceeded(self, now_s: float, *, good: int, bad: int) -> bool:
        """Count a batch; return whether dead letters exceed the quota and outnumber the good messages."""
        self._seen.append((now_s, good, bad))
        self._good += good
        self._bad += bad
        while self._seen[0][0] <= now_s - self.window_s:
            _, old_good, old_bad = self._seen.popleft()
            self._good -= old_good
            self._bad -= old_bad
        return self._bad > self.dead_letters_max and self._bad > self._good
