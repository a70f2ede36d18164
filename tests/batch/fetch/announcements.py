"""What a `read_committed` consumer hears on topics that other tests speak on as well."""

from collections.abc import Sequence
from contextlib import ExitStack

from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested


class Ear:
    """Listens from now on."""

    def __init__(self, settings: Settings, topics: Sequence[str]) -> None:
        self._stack = ExitStack()
        self._consumer = self._stack.enter_context(reading_consumer(settings, "test"))
        keys = [key for topic in topics for key in partitions_of(self._consumer, topic)]
        self._starts = {key: end for key, (_, end) in offset_bounds(self._consumer, keys).items()}

    def heard(self) -> list[tuple[str, Ingested]]:
        """Return everything from where it began to the ends of all partitions, and their topics; then it is over."""
        with self._stack:
            ends = offset_bounds(self._consumer, self._starts)
            ranges = {key: (start, ends[key][1]) for key, start in self._starts.items()}
            return [
                (message.topic(), decode(message.value(), Ingested)) for message in TopicReader(self._consumer, ranges)
            ]
