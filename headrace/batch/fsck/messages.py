"""Kafka, as a check reads it: single messages at their place, and what the ingested topics announce.

Every call blocks and belongs on one thread. Nothing is committed; nobody's offsets move.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.runtime.kafka import client_config, kafka_unreachable
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import ingested_topic

_REQUEST_S = 10.0
_FETCH_S_MAX = 10.0
_SILENCE_S_MAX = 30.0
_READ_MESSAGES = 2000
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
            place = TopicPartition(topic, partition, offset)
            low, high = consumer.get_watermark_offsets(place, timeout=_REQUEST_S)
            if not low <= offset < high:
                return None
            consumer.assign([place])
            deadline = time.monotonic() + _FETCH_S_MAX
            while time.monotonic() < deadline:
                message = consumer.poll(1.0)
                if message is None or message.error() is not None:
                    continue
                return message.value() if message.offset() == offset else None
            return None

    def complete_since_us(self) -> int:
        """Return the time since when the ingested topics hold everything; 0 where nothing was ever removed.

        It is later than what Kafka says by CLOCKS_APART_S_MAX, so it may be compared with the catalog's times.
        """
        since_ms = 0
        with self._consumer("read_uncommitted") as consumer:
            for place in self._places(consumer):
                low, high = consumer.get_watermark_offsets(place, timeout=_REQUEST_S)
                if low > 0:
                    since_ms = max(since_ms, _now_ms() if low == high else self._first_ms(consumer, place, low))
        return (since_ms + CLOCKS_APART_S_MAX * 1000) * 1000 if since_ms else 0

    def _first_ms(self, consumer: Consumer, place: TopicPartition, low: int) -> int:
        """Return the time of the first message that is left; now, where nothing is left by now."""
        consumer.assign([TopicPartition(place.topic, place.partition, low)])
        message = consumer.poll(_REQUEST_S)
        # Silence must not read as "nothing was ever removed": what retention took would be announced again.
        if message is None:
            raise kafka_unreachable(self._settings, KafkaError(KafkaError._TIMED_OUT, place.topic))  # noqa: SLF001
        error = message.error()
        if error is None:
            return message.timestamp()[1]
        if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            raise KafkaException(error)
        return _now_ms()

    def announced(self) -> Iterator[list[AnnouncedEvent]]:
        """Yield what the ingested topics hold now, as a `read_committed` reader sees it."""
        with self._consumer("read_committed") as consumer:
            ends: dict[tuple[str, int], int] = {}
            for place in self._places(consumer):
                low, high = consumer.get_watermark_offsets(place, timeout=_REQUEST_S)
                if low < high:
                    ends[place.topic, place.partition] = high
            consumer.assign([TopicPartition(*key, 0) for key in ends])
            last_s = time.monotonic()
            while ends:
                found, progressed = self._taken(consumer, ends)
                if progressed:
                    last_s = time.monotonic()
                elif time.monotonic() - last_s > _SILENCE_S_MAX:
                    topic = next(iter(ends))[0]
                    raise kafka_unreachable(self._settings, KafkaError(KafkaError._TIMED_OUT, topic))  # noqa: SLF001
                yield found

    def _taken(self, consumer: Consumer, ends: dict[tuple[str, int], int]) -> tuple[list[AnnouncedEvent], bool]:
        found, messages = [], consumer.consume(_READ_MESSAGES, 0.5)
        for message in messages:
            topic, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                raise KafkaException(error)
            if error is None:
                record = _record_of(message.value())
                if record is not None:
                    found.append(AnnouncedEvent(topic, record))
            if offset + (error is None) >= ends.get((topic, partition), 0):
                ends.pop((topic, partition), None)
        return found, bool(messages)

    def _places(self, consumer: Consumer) -> Sequence[TopicPartition]:
        known = consumer.list_topics(timeout=_REQUEST_S).topics
        names = [ingested_topic(kind).name for kind in Kind]
        return [
            TopicPartition(name, partition) for name in names if name in known for partition in known[name].partitions
        ]

    @contextmanager
    def _consumer(self, isolation: str) -> Iterator[Consumer]:
        consumer = Consumer(
            client_config(
                self._settings,
                group_id="headrace-fsck",  # librdkafka wants one; nothing is ever committed to it
                isolation_level=isolation,
                enable_auto_commit=False,
                enable_partition_eof=True,
                auto_offset_reset="earliest",
                queued_max_messages_kbytes=32 * 1024,
            )
            | {"log_level": 0}
        )
        try:
            yield consumer
        except KafkaException as error:
            raise kafka_unreachable(self._settings, error.args[0]) from None
        finally:
            consumer.close()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _record_of(value: bytes | None) -> UUID | None:
    try:
        return UUID(decode(value, Ingested).record_id)
    except (RejectedError, ValueError):
        return None  # somebody else's message; the topic's readers see that for themselves
