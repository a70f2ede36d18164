"""What is already out: the ends of the topics that the relay writes to, read once at its start.

Only what a `read_committed` reader sees counts. The reading is done when each partition has been read to the end that
it had at the start: the relay before was fenced by then and its last transaction ended, so nothing of it can follow.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias, cast
from uuid import UUID

from confluent_kafka import Consumer, IsolationLevel, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.streams.producer_reset import ProducerResetError
from headrace.streams.relay.faults import kafka_fault, kafka_faults
from headrace.streams.relay.plan import OUTPUT_TOPICS, event_id_of

PublishedHeaders: TypeAlias = list[tuple[str, bytes | None]]  # what librdkafka gives, whatever its types admit

READ_MESSAGES_MAX = 5_000  # event ids that are marked by one statement
READ_S = 0.1
REQUEST_S_MAX = 10
SILENCE_S_MAX = 30  # longer than any transaction may stay open, and with it the end of what is committed


@dataclass(frozen=True, slots=True)
class PublishedEvents:
    """Event ids that were found published, and the offsets to read next."""

    event_ids: list[UUID] = field(default_factory=list)
    next_offsets: dict[tuple[str, int], int] = field(default_factory=dict)


class PublishedOffsets:
    """Reads from the checkpoints to the ends. Every call blocks and belongs on one thread."""

    def __init__(self, settings: Settings) -> None:
        self._config = client_config(
            settings,
            reconnect_backoff_max_ms=1000,
            group_id="headrace-relay",  # librdkafka wants one; nothing is ever committed to it
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_partition_eof=True,
            # A checkpoint can lie before what retention left, or behind the end of a topic that was made anew.
            auto_offset_reset="earliest",
            # Dead letters are large, and only their headers are looked at.
            queued_max_messages_kbytes=32 * 1024,
        )
        self._admin = AdminClient(client_config(settings))
        self._consumer: Consumer | None = None
        self._ends: dict[tuple[str, int], int] = {}
        self._last_progress_s = 0.0

    def open(self, checkpoints: Mapping[tuple[str, int], int]) -> None:
        """Begin to read at the checkpoints, and at the beginning where there is none.

        Raises:
            StartOver: Kafka does not answer, or a topic is not there.
        """
        self._consumer = Consumer(self._config)
        with kafka_faults("looking up the topics"):
            known = self._consumer.list_topics(timeout=REQUEST_S_MAX).topics
            missing = [name for name in OUTPUT_TOPICS if name not in known or not known[name].partitions]
            if missing:
                raise ProducerResetError(f"Kafka has no topic {missing[0]}")
            places = [(name, partition) for name in OUTPUT_TOPICS for partition in known[name].partitions]
            first = self._offsets(places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            self._ends = self._offsets(places, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        starts = {place: checkpoints.get(place, first[place]) for place in places}
        self._ends = {place: end for place, end in self._ends.items() if end not in (first[place], starts[place])}
        with kafka_faults("reading what is out"):
            self._consumer.assign([TopicPartition(*place, starts[place]) for place in self._ends])
        self._last_progress_s = time.monotonic()

    def read(self) -> PublishedEvents | None:
        """Return what comes next, or None when every end was reached.

        Raises:
            StartOver: Kafka failed, or an end is not reached because a transaction does not end.
        """
        assert self._consumer is not None
        if not self._ends:
            return None
        with kafka_faults("reading what is out"):
            messages = self._consumer.consume(READ_MESSAGES_MAX, READ_S)
        out = PublishedEvents()
        for message in messages:
            self._take(message, out)
        if messages:
            self._last_progress_s = time.monotonic()
        elif time.monotonic() - self._last_progress_s > SILENCE_S_MAX:
            raise ProducerResetError(
                f"the end of {next(iter(self._ends))[0]} was not reached: a transaction there does not end"
            )
        return out

    def close(self) -> None:
        """Leave; nothing is committed."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _offsets(self, places: Iterable[tuple[str, int]], which: OffsetSpec) -> dict[tuple[str, int], int]:
        # Uncommitted, so that a transaction which someone left open on our topics is waited for, not read around.
        asked = self._admin.list_offsets(
            {TopicPartition(*place): which for place in places},
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=REQUEST_S_MAX,
        )
        return {(place.topic, place.partition): answer.result().offset for place, answer in asked.items()}

    def _take(self, message: Message, out: PublishedEvents) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        error = message.error()
        if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            raise kafka_fault("reading what is out", error)
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        place = topic, partition
        # The end is where a transaction's marker stands, not a message, so librdkafka's own note of it is what counts.
        reached = offset if error is not None else offset + 1
        if error is None and (event_id := event_id_of(cast("PublishedHeaders", message.headers() or []))):
            out.event_ids.append(event_id)
        out.next_offsets[place] = reached
        if reached >= self._ends.get(place, 0):
            self._ends.pop(place, None)
