import threading
import time
from collections.abc import Callable


def unix_us() -> int:
    """Return now, in microseconds since 1970, UTC."""
    return time.time_ns() // 1000


class SequenceCounter:
    """A source's own increasing numbers, which need no file to go on increasing after a restart.

    They begin at the Unix microsecond of the start. A source that sends fewer than a million events a second has,
    when it stops, used numbers below the microsecond of that moment, so the next start is always above them.
    """

    def __init__(self, clock_us: Callable[[], int] = unix_us) -> None:
        """Begin at what the clock says now."""
        self._next = clock_us()
        self._lock = threading.Lock()

    def next(self) -> int:
        """Return the next number; may be called from several threads."""
        with self._lock:
            number = self._next
            self._next += 1
            return number
