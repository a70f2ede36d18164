from collections import OrderedDict
from dataclasses import dataclass

from headrace.streams.consumers.change_detection import Look
from headrace.streams.consumers.group_consumer import TopicPartitionKey


@dataclass(frozen=True, slots=True)
class PreviousFrame:
    """A source's last frame."""

    digest: str
    look: Look
    place: TopicPartitionKey


class PreviousFrames:
    """The last frame of each source, as many as fit; the sources that were silent for longest go first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held_bytes = 0
        self._seen: OrderedDict[tuple[str, str], PreviousFrame] = OrderedDict()

    def swap(self, source: tuple[str, str], now: PreviousFrame) -> PreviousFrame | None:
        """Keep the frame as the source's last, and return the one before."""
        before = self._drop(source)
        self._seen[source] = now
        self._held_bytes += now.look.grey.nbytes
        while self._held_bytes > self._bytes_max and len(self._seen) > 1:
            self._drop(next(iter(self._seen)))
        return before

    def forget(self, places: set[TopicPartitionKey] | None) -> None:
        """Forget the sources of these partitions; with None, all."""
        for source in [source for source, seen in self._seen.items() if places is None or seen.place in places]:
            self._drop(source)

    def _drop(self, source: tuple[str, str]) -> PreviousFrame | None:
        seen = self._seen.pop(source, None)
        if seen is not None:
            self._held_bytes -= seen.look.grey.nbytes
        return seen
