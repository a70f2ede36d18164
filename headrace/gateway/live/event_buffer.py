"""The newest events of every place, which all streams of a gateway read: each has a cursor, none has a queue.

So what the slowest of them does costs nobody memory: it falls off the end, and is told. No I/O.
"""

from collections import deque
from collections.abc import Mapping

from headrace.gateway.live.resume_token import ResumeToken, TopicPartitionRef
from headrace.gateway.live.stream_event import StreamedEvent
from headrace.schemas.limits import MIB

EVENTS_MAX = 10_000
BYTES_MAX = 16 * MIB


class EventBuffer:
    """Of each place, everything from `firsts` on up to `nexts` is in it; `first` and `end` number what it holds."""

    def __init__(self, events_max: int = EVENTS_MAX, bytes_max: int = BYTES_MAX) -> None:
        """Hold at most so much."""
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._held: deque[StreamedEvent] = deque()
        self._held_bytes = 0
        self.first = 0
        self.firsts: dict[TopicPartitionRef, int] = {}
        self.nexts: dict[TopicPartitionRef, int] = {}

    @property
    def end(self) -> int:
        """The number of the event that comes next."""
        return self.first + len(self._held)

    def begin(self, nexts: Mapping[TopicPartitionRef, int]) -> None:
        """Take note of places, and where each begins here; those that are known go on as they are."""
        self.firsts = {**nexts, **self.firsts}
        self.nexts = {**nexts, **self.nexts}

    def add(self, one: StreamedEvent) -> None:
        """Take the next event of its place; the oldest make room."""
        if one.offset < self.nexts.get(one.place, 0):
            return  # it was read twice, because a reader was opened again
        self._held.append(one)
        self._held_bytes += one.size_bytes
        self.nexts[one.place] = one.offset + 1
        while len(self._held) > self._events_max or self._held_bytes > self._bytes_max:
            oldest = self._held.popleft()
            self._held_bytes -= oldest.size_bytes
            self.firsts[oldest.place] = oldest.offset + 1
            self.first += 1

    def pass_over(self, place: TopicPartitionRef, offset: int) -> None:
        """Take note that nothing comes before this offset."""
        self.nexts[place] = max(offset, self.nexts.get(place, 0))

    def since(self, number: int, count: int) -> list[StreamedEvent]:
        """Return at most so many events from this number on."""
        begin = number - self.first
        return [self._held[index] for index in range(begin, min(begin + count, len(self._held)))]

    def missing(self, position: ResumeToken) -> dict[TopicPartitionRef, tuple[int, int]]:
        """Return what a stream at this position needs and the ring has no more: from which offset up to which."""
        return {place: (position[place], first) for place, first in self.firsts.items() if position[place] < first}
