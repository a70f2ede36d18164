"""Read which announcements are published: the ends of the relay's topics, when it becomes the leader.

Only committed messages count (`read_committed`). Reading is complete when each partition has been read to the end that
it had at the start: by then the previous relay was fenced and its last transaction ended, so it can add no message.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from confluent_kafka import Consumer, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, headers_of
from headrace.schemas.topics import DEAD_LETTERS, PartitionKey
from headrace.store.catalog.outbox import PublishedEvent
from headrace.streams.relay.announcement import published_event
from headrace.streams.transaction_errors import TopicRefusedError, kafka_faults

READ_MESSAGES_MAX = 5_000  # event ids that are marked by one statement
READ_S = 0.1
REQUEST_S_MAX = 10
SILENCE_S_MAX = 30.0  # longer than any transaction may stay open, and with it the end of what is committed


@dataclass(frozen=True, slots=True)
class PublishedEvents:
    """Events that were found published, and the offsets to read next.

    `values` are the messages of records among them, where they were asked for.
    """

    events: list[PublishedEvent] = field(default_factory=list)
    next_offsets: dict[PartitionKey, int] = field(default_factory=dict)
    values: dict[UUID, bytes] = field(default_factory=dict)

    @property
    def event_ids(self) -> list[UUID]:
        """The ids of the events."""
        return [event.event_id for event in self.events]


class PublishedOffsets:
    """Reads from the checkpoints to the ends. Every call blocks and belongs on one thread."""

    def __init__(self, settings: Settings, topics: Collection[str], *, with_values: bool = False) -> None:
        """Read these topics."""
        self._topics = topics
        self._config = client_config(
            settings,
            reconnect_backoff_max_ms=1000,
            group_id="headrace-relay",  # librdkafka requires one; no offset is committed to it
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_partition_eof=True,
            # Retention may delete the first messages just now.
            auto_offset_reset="earliest",
            # Dead letters are large, and only their headers are looked at.
            queued_max_messages_kbytes=32 * 1024,
        )
        self._with_values = with_values
        self._admin = AdminClient(client_config(settings))
        self._consumer: Consumer | None = None
        self._reader: TopicReader | None = None
        self._reported: dict[PartitionKey, int] = {}

    def open(self, checkpoints: Mapping[PartitionKey, int]) -> None:
        """Begin to read at the checkpoints, and at the beginning where there is none.

        Raises:
            ProducerResetError: Kafka does not answer. TopicRefusedError: a topic does not exist, or an ACL is missing.
        """
        self._consumer = Consumer(self._config)
        with kafka_faults("looking up the topics"):
            known = self._consumer.list_topics(timeout=REQUEST_S_MAX).topics
            missing = [name for name in self._topics if name not in known or not known[name].partitions]
            if missing:
                raise TopicRefusedError(f"there is no topic {missing[0]}, or its ACL {Operation.DESCRIBE} is missing")
            partitions = [(name, number) for name in self._topics for number in known[name].partitions]
            first = self._offsets(partitions, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
            ends = self._offsets(partitions, OffsetSpec.latest())  # type: ignore[no-untyped-call]
        ranges = {
            partition: (_start(checkpoints.get(partition), first[partition], end), end)
            for partition, end in ends.items()
        }
        with kafka_faults("reading what is published"):
            self._reader = TopicReader(self._consumer, ranges, silence_s_max=SILENCE_S_MAX)
        self._reported = dict(self._reader.next_offsets)

    @property
    def next_offsets(self) -> dict[PartitionKey, int]:
        """The offset after what was read of each partition, also of an empty one."""
        return {} if self._reader is None else dict(self._reader.next_offsets)

    def read(self) -> PublishedEvents | None:
        """Return the next events, or None when every end was reached.

        Raises:
            ProducerResetError: Kafka failed, or an end is not reached because a transaction does not end.
        """
        assert self._reader is not None
        if not self._reader.unfinished:
            return None
        with kafka_faults("reading what is published"):
            messages = self._reader.read(READ_MESSAGES_MAX, READ_S)
        events = [(event, message) for message in messages if (event := published_event(headers_of(message) or []))]
        values = {
            event.event_id: message.value() or b""
            for event, message in events
            if self._with_values and message.topic() != DEAD_LETTERS.name
        }
        moved = {key: at for key, at in self._reader.next_offsets.items() if at != self._reported[key]}
        self._reported |= moved
        return PublishedEvents([event for event, _ in events], moved, values)

    def close(self) -> None:
        """Close the consumer; no offset is committed."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()

    def _offsets(self, partitions: Iterable[PartitionKey], which: OffsetSpec) -> dict[PartitionKey, int]:
        # Uncommitted, so that a transaction another producer left open on these topics is waited for.
        asked = self._admin.list_offsets(
            {TopicPartition(*partition): which for partition in partitions},
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=REQUEST_S_MAX,
        )
        offsets = {}
        for partition, answer in asked.items():
            try:
                offsets[partition.topic, partition.partition] = answer.result().offset
            except KafkaException as error:
                raise KafkaException(with_acl(error.args[0], Operation.DESCRIBE, partition.topic)) from None
        return offsets


def _start(checkpoint: int | None, first: int, end: int) -> int:
    # A checkpoint can be before what retention left, or after the end of a topic that was created again.
    return first if checkpoint is None or not first <= checkpoint <= end else checkpoint
