"""Kafka, as a check reads it: single messages at their place, and what the ingested topics announce.

Every call blocks and belongs on one thread. Nothing is committed; nobody's offsets move.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.runtime.kafka import kafka_unreachable
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import PartitionKey, TopicReader, offset_bounds, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import ingested_topic

_REQUEST_S = 10.0
_FETCH_S_MAX = 10.0
CLOCKS_APART_S_MAX = 300  # Kafka stamps its messages by its own clock, the catalog its rows by another


@dataclass(frozen=True, slots=True)
class AnnouncedEvent:
    """One announcement: where it stands, and of what record."""

    topic: str
    record_id: UUID


class Messages:
    """Reads from Kafka; raises HeadraceError where it does not answer."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def at(self, topic: str, partition: int, offset: int) -> bytes | None:
        """Return the value of the message at a place; None where retention, or a new topic, has taken it."""
        with self._consumer("read_uncommitted") as consumer:
            about = consumer.list_topics(topic, timeout=_REQUEST_S).topics[topic]
            if about.error is not None or partition not in about.partitions:
                return None
            key = topic, partition
            low, high = offset_bounds(consumer, [key])[key]
            if not low <= offset < high:
                return None
            reader = TopicReader(consumer, {key: (offset, offset + 1)}, silence_s_max=None, on_error=lambda _: None)
            deadline = time.monotonic() + _FETCH_S_MAX
            while reader.unfinished and time.monotonic() < deadline:
                for message in reader.read(1, 1.0):
                    return message.value()
            return None

    def complete_since_us(self) -> int:
        """Return the time since when the ingested topics hold everything; 0 where nothing was ever removed.

        It is later than what Kafka says by CLOCKS_APART_S_MAX, so it may be compared with the catalog's times.
        """
        since_ms = 0
        with self._consumer("read_uncommitted") as consumer:
            for key, (low, high) in offset_bounds(consumer, _partitions(consumer)).items():
                if low > 0:
                    since_ms = max(since_ms, _now_ms() if low == high else self._first_ms(consumer, key, low))
        return (since_ms + CLOCKS_APART_S_MAX * 1000) * 1000 if since_ms else 0

    def _first_ms(self, consumer: Consumer, key: PartitionKey, low: int) -> int:
        """Return the time of the first message that is left; now, where nothing is left by now."""
        consumer.assign([TopicPartition(*key, low)])
        message = consumer.poll(_REQUEST_S)
        # Silence must not read as "nothing was ever removed": what retention took would be announced again.
        if message is None:
            raise kafka_unreachable(self._settings, KafkaError(KafkaError._TIMED_OUT, key[0]))  # noqa: SLF001
        error = message.error()
        if error is None:
            return message.timestamp()[1]
        if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            raise KafkaException(error)
        return _now_ms()

    def announced(self) -> Iterator[list[AnnouncedEvent]]:
        """Yield what the ingested topics hold now, as a `read_committed` reader sees it."""
        with self._consumer("read_committed") as consumer:
            reader = TopicReader(consumer, offset_bounds(consumer, _partitions(consumer)))
            while reader.unfinished:
                records = ((message.topic() or "", _record_of(message.value())) for message in reader.read())
                yield [AnnouncedEvent(topic, record) for topic, record in records if record is not None]

    def _consumer(self, isolation: str) -> AbstractContextManager[Consumer]:
        return reading_consumer(self._settings, "headrace-fsck", isolation_level=isolation)


def _partitions(consumer: Consumer) -> list[PartitionKey]:
    known = consumer.list_topics(timeout=_REQUEST_S).topics
    names = [ingested_topic(kind).name for kind in Kind]
    return [(name, partition) for name in names if name in known for partition in known[name].partitions]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _record_of(value: bytes | None) -> UUID | None:
    try:
        return UUID(decode(value, Ingested).record_id)
    except (RejectedError, ValueError):
        return None  # somebody else's message; the topic's readers see that for themselves
