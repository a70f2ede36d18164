"""Reads from Kafka for a check: single messages by offset, and the announcements on the ingested topics.

Every call blocks and belongs on one thread. Nothing is committed.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from confluent_kafka import Consumer

from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import PartitionKey, ingested_topic

GROUP_ID = "headrace-fsck"
CLOCKS_APART_S_MAX = 300  # Kafka and PostgreSQL stamp by their own clocks
FIRST_MESSAGE_S_MAX = 10.0
_REQUEST_S = 10.0
_FETCH_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class AnnouncedEvent:
    """The topic of an announcement, and its record."""

    topic: str
    record_id: UUID


class TopicMessages:
    """Reads from Kafka; raises HeadraceError if Kafka does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def value_at(self, topic: str, partition: int, offset: int) -> bytes | None:
        """Return the value of the message at an offset; None if retention or a new topic has removed it."""
        with reading_consumer(self._settings, GROUP_ID, isolation_level="read_uncommitted") as consumer:
            metadata = consumer.list_topics(topic, timeout=_REQUEST_S).topics[topic]
            if metadata.error is not None or partition not in metadata.partitions:
                return None
            key = topic, partition
            low, high = offset_bounds(consumer, [key])[key]
            if not low <= offset < high:
                return None
            # librdkafka retries by itself; without an answer in time, the message counts as lost.
            ranges = {key: (offset, offset + 1)}
            reader = TopicReader(consumer, ranges, silence_s_max=None, on_error=lambda _error: None)
            deadline_s = time.monotonic() + _FETCH_S_MAX
            while reader.unfinished and time.monotonic() < deadline_s:
                for message in reader.read(1, 1.0):
                    return message.value()
            return None

    def complete_since_us(self) -> int:
        """Return the time since when the ingested topics are complete; 0 if retention has removed nothing.

        The result allows for CLOCKS_APART_S_MAX, so it is comparable with times of the catalog.
        """
        since_ms = 0
        with reading_consumer(self._settings, GROUP_ID, isolation_level="read_uncommitted") as consumer:
            for key, (low, high) in offset_bounds(consumer, _partitions(consumer)).items():
                if low > 0:
                    since_ms = max(since_ms, self._first_message_ms(consumer, key, low, high))
        return (since_ms + CLOCKS_APART_S_MAX * 1000) * 1000 if since_ms else 0

    def announcements(self) -> Iterator[list[AnnouncedEvent]]:
        """Yield, in batches, the announcements that the ingested topics hold now for `read_committed` consumers."""
        with reading_consumer(self._settings, GROUP_ID) as consumer:
            reader = TopicReader(consumer, offset_bounds(consumer, _partitions(consumer)))
            while reader.unfinished:
                batch = []
                for message in reader.read():
                    record = _record_id(message.value())
                    if record is not None:
                        batch.append(AnnouncedEvent(message.topic() or "", record))
                yield batch

    def _first_message_ms(self, consumer: Consumer, key: PartitionKey, low: int, high: int) -> int:
        """Return the timestamp of the first remaining message, or the current time if there is none.

        Raises:
            KafkaException: Kafka does not answer. Silence must not count as "nothing was removed": a repair would
                announce again the records whose announcements retention has removed.
        """
        reader = TopicReader(consumer, {key: (low, high)}, silence_s_max=FIRST_MESSAGE_S_MAX)
        first = next(iter(reader), None)
        return _now_ms() if first is None else first.timestamp()[1]


def _partitions(consumer: Consumer) -> list[PartitionKey]:
    known = consumer.list_topics(timeout=_REQUEST_S).topics
    topics = [ingested_topic(kind).name for kind in Kind]
    return [(topic, partition) for topic in topics if topic in known for partition in known[topic].partitions]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _record_id(value: bytes | None) -> UUID | None:
    try:
        return UUID(decode(value, Ingested).record_id)
    except (RejectedError, ValueError):
        return None  # not one of our messages; consumers of the topic report it
