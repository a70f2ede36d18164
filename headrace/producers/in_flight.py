import threading
import time

from headrace.runtime.metrics import producer_bytes_in_flight


class InFlight:
    """How much is handed over but not yet acknowledged, bounded in bytes; the one place where a producer waits."""

    def __init__(self, bytes_max: int) -> None:
        """Allow `bytes_max` at a time; what alone is larger passes when nothing else is in flight."""
        self._bytes_max = bytes_max
        self._bytes = 0
        self._events = 0
        self._shut = False
        self._changed = threading.Condition()

    @property
    def events(self) -> int:
        """How many events are in flight."""
        return self._events

    def enter(self, size_bytes: int, *, wait: bool = True) -> bool:
        """Count an event in, waiting until there is room for it; False once nothing more is taken."""
        with self._changed:
            while wait and not self._shut and self._events and self._bytes + size_bytes > self._bytes_max:
                self._changed.wait()
            if self._shut:
                return False
            self._bytes += size_bytes
            self._events += 1
        producer_bytes_in_flight.inc(size_bytes)
        return True

    def leave(self, size_bytes: int) -> None:
        """Count an event out."""
        with self._changed:
            self._bytes -= size_bytes
            self._events -= 1
            self._changed.notify_all()
        producer_bytes_in_flight.dec(size_bytes)

    def shut(self) -> None:
        """Let nothing more in; who waits is sent away."""
        with self._changed:
            self._shut = True
            self._changed.notify_all()

    def drained(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False when the time is over before."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._events:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True
