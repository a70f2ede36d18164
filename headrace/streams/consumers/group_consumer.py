"""Announcements from Kafka, a batch at a time; librdkafka's blocking calls have one thread to themselves.

Nothing is taken while a batch is being handled, so partitions change hands only between batches: what was handled is
committed before a partition goes, and what is not committed was not begun by anybody else. Heartbeats come from
librdkafka's own thread; a batch that takes longer than `POLL_INTERVAL_S_MAX` loses its partitions and cannot commit.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.runtime.kafka import client_config, heartbeat_s
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import consumer_events_total
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested
from headrace.schemas.headers import traceparent_of
from headrace.schemas.reject import RejectedError

RawHeaders: TypeAlias = list[tuple[str, bytes | None]]  # what librdkafka gives, whatever its types admit

TopicPartitionKey: TypeAlias = tuple[str, int]
"""Topic and partition."""

POLL_S = 0.1  # also the longest that a stop waits for the thread
POLL_INTERVAL_S_MAX = 300
RECONNECT_MS_MAX = 1000  # librdkafka's default would notice ten seconds late that Kafka is back
# Announcements are below 1 KiB: this holds thousands of them ready without weighing on memory.
QUEUED_KIB_MAX = 16 * 1024

# The group has moved on without us: what we hold belongs to another member by now, who begins at the committed offset.
_LOST = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.FENCED_MEMBER_EPOCH,
        KafkaError.STALE_MEMBER_EPOCH,
        KafkaError._ASSIGNMENT_LOST,  # noqa: SLF001
    }
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PolledEvent:
    """One announcement and where it stood."""

    event: Ingested
    traceparent: str | None
    place: TopicPartitionKey
    offset: int


@dataclass(frozen=True, slots=True)
class PolledBatch:
    """What was taken at once: each partition's announcements in their order, and the offsets that follow them."""

    taken: dict[TopicPartitionKey, list[PolledEvent]] = field(default_factory=dict)
    next_offsets: dict[TopicPartitionKey, int] = field(default_factory=dict)


class GroupConsumer:
    """A member of a consumer group. Its methods must not overlap."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        topics: Sequence[str],
        *,
        given_up: Callable[[set[TopicPartitionKey]], None],
    ) -> None:
        """`given_up` is told which partitions went to others; it is called from a thread."""
        self._group = group
        self._topics = list(topics)
        self._given_up = given_up
        self._config = client_config(
            settings,
            group_id=group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="earliest",
            # The others keep their partitions, and what they remember of their sources, when a member comes or goes.
            partition_assignment_strategy="cooperative-sticky",
            session_timeout_ms=int(settings.kafka_session_s * 1000),
            heartbeat_interval_ms=int(heartbeat_s(settings.kafka_session_s) * 1000),
            max_poll_interval_ms=POLL_INTERVAL_S_MAX * 1000,
            queued_max_messages_kbytes=QUEUED_KIB_MAX,
            # librdkafka's default pauses for a second whenever its queue fills.
            fetch_queue_backoff_ms=5,
            fetch_wait_max_ms=100,
            reconnect_backoff_max_ms=RECONNECT_MS_MAX,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kafka-{group}")
        self._consumer: Consumer | None = None
        self._uncommitted: dict[TopicPartitionKey, int] = {}
        self._gone: set[TopicPartitionKey] = set()
        self._joined = False
        self.assigned: frozenset[TopicPartitionKey] | None = None
        """The partitions that this member had when it last took something, None where the group had not said yet.

        Readable from any thread.
        """

    async def open(self) -> None:
        """Join the group."""
        await self.run(self._open)

    async def take(self, events_max: int) -> PolledBatch:
        """Return what has come, at most `events_max`; an empty batch where nothing came for `POLL_S` seconds.

        Raises:
            KafkaException: Kafka refuses us.
        """
        return await self.run(lambda: self._take(events_max))

    async def commit(self, next_offsets: Mapping[TopicPartitionKey, int]) -> None:
        """Note that everything before these offsets was handled. May be repeated.

        Partitions that went to another member are left to it.

        Raises:
            KafkaException: Kafka did not take it.
        """
        if next_offsets:
            await self.run(lambda: self._commit(next_offsets))

    async def give_back(self, offsets: Mapping[TopicPartitionKey, int]) -> None:
        """Take again from these offsets next time."""
        if offsets:
            await self.run(lambda: self._seek(offsets))

    async def close(self) -> None:
        """Leave the group, so that others take over at once."""
        if self._consumer is not None:
            await self.run(self._consumer.close)
            self._consumer = None
        self._thread.shutdown(wait=False)

    async def run(self, call: Callable[[], T]) -> T:
        """Make a blocking call on this intake's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def group_metadata(self) -> Any:
        """Return what a transaction needs to commit this member's offsets; belongs on the thread of `run`."""
        assert self._consumer is not None
        return self._consumer.consumer_group_metadata()

    def _open(self) -> None:
        self._consumer = Consumer(self._config)
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assigned, on_revoke=self._on_gone, on_lost=self._on_gone
        )

    def _take(self, events_max: int) -> PolledBatch:
        assert self._consumer is not None
        batch = PolledBatch()
        # `consume` would wait for all of `events_max`: the first is waited for, the others come if they are there.
        first = self._consumer.poll(POLL_S)
        # What went while it was waited for may have come back within the same call: what was returned is ours.
        self._gone.clear()
        if first is not None:
            rest = self._consumer.consume(events_max - 1, 0) if events_max > 1 else []
            for message in (first, *rest):
                self._sort(message, batch)
        # A partition may go between the first message and the others: then its new owner takes all of them.
        held = frozenset((place.topic, place.partition) for place in self._consumer.assignment())
        self.assigned = held if held or self._joined else None
        for place in self._gone:
            batch.taken.pop(place, None)
            batch.next_offsets.pop(place, None)
        return batch

    def _sort(self, message: Message, batch: PolledBatch) -> None:
        if (error := message.error()) is not None:
            if error.fatal() or error.code() in {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION}:  # noqa: SLF001
                raise KafkaException(error)
            get_log().warning(Action.RETRYING, service="kafka", group=self._group, why=error.str())
            return
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        place = topic, partition
        batch.next_offsets[place] = offset + 1
        try:
            event = decode(message.value(), Ingested)
        except RejectedError as rejected:
            # Somebody else wrote to our topic. There is nobody to tell but the operator, and nothing to wait for.
            consumer_events_total.labels(self._group, "undecodable").inc()
            get_log().warning(Action.UNDECODABLE, topic=topic, partition=partition, offset=offset, why=rejected.reason)
            return
        trace = traceparent_of(cast("RawHeaders", message.headers() or []))
        batch.taken.setdefault(place, []).append(PolledEvent(event, trace, place, offset))

    def _commit(self, next_offsets: Mapping[TopicPartitionKey, int]) -> None:
        assert self._consumer is not None
        self._uncommitted |= next_offsets
        try:
            answers = self._consumer.commit(offsets=_positions(self._uncommitted), asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in _LOST:
                raise
            # Kept: where the partition stays ours, the next commit says it again.
            get_log().warning(Action.RETRYING, service="kafka", group=self._group, why=error.args[0].str())
            return
        failed = [answer.error for answer in answers or () if answer.error and answer.error.code() not in _LOST]
        if failed:
            raise KafkaException(failed[0])
        self._uncommitted.clear()

    def _seek(self, offsets: Mapping[TopicPartitionKey, int]) -> None:
        assert self._consumer is not None
        held = {(place.topic, place.partition) for place in self._consumer.assignment()}
        for position in _positions({place: offset for place, offset in offsets.items() if place in held}):
            self._consumer.seek(position)

    def _on_assigned(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        # It comes at the end of each rebalance, also with nothing new, so whoever stands by is told too.
        self._joined = True

    def _on_gone(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._joined = False
        gone = {(place.topic, place.partition) for place in partitions}
        for place in gone:
            self._uncommitted.pop(place, None)
        self._gone |= gone
        self._given_up(gone)


def _positions(offsets: Mapping[TopicPartitionKey, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
