from collections import OrderedDict
from dataclasses import dataclass

from streams.consumers.change_detection import Look
from streams.consumers.intake import Place


@dataclass(frozen=True, slots=True)
class Seen:
    """A source's last frame."""

    digest: str
    look: Look
    place: Place


class LastLooks:
    """The last frame of each source, as many as fit; the sources that were silent for longest go first."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held_bytes = 0
        self._seen: OrderedDict[tuple[str, str], Seen] = OrderedDict()

    def swap(self, source: tuple[str, str], now: Seen) -> Seen | None:
        """Keep the frame as the source's last, and return the one before."""
        before = self._drop(source)
        self._seen[source] = now
        self._held_bytes += now.look.grey.nbytes
        while self._held_bytes > self._bytes_max and len(self._seen) > 1:
            self._drop(next(iter(self._seen)))
        return before

    def forget(self, places: set[Place] | None) -> None:
        """Forget the sources of these partitions; with None, all."""
        for source in [source for source, seen in self._seen.items() if places is None or seen.place in places]:
            self._drop(source)

    def _drop(self, source: tuple[str, str]) -> Seen | None:
        seen = self._seen.pop(source, None)
        if seen is not None:
            self._held_bytes -= seen.look.grey.nbytes
        return seen
