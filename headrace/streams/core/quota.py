"""When too much is rejected, the fault is more likely ours than the sources': stop, instead of draining a topic."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Quota:
    """Counts good messages and dead letters of the last `window_s` seconds; times are passed in, in seconds."""

    dead_letters_max: int
    window_s: float
    _seen: deque[tuple[float, int, int]] = field(default_factory=deque)
    _good: int = 0
    _bad: int = 0

    def exceeded(self, now_s: float, *, good: int, bad: int) -> bool:
        """Count a batch, and say whether dead letters are over the quota and outnumber what was good."""
        self._seen.append((now_s, good, bad))
        self._good += good
        self._bad += bad
        while self._seen[0][0] <= now_s - self.window_s:
            _, old_good, old_bad = self._seen.popleft()
            self._good -= old_good
            self._bad -= old_bad
        return self._bad > self.dead_letters_max and self._bad > self._good
