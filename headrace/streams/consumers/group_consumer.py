"""A consumer group member that polls announcements in batches; librdkafka's blocking calls have one thread.

It does not poll while a batch is being handled, so a rebalance happens only between batches: offsets are committed
before a partition is revoked, and no other member has begun what is not committed. Heartbeats come from librdkafka's
own thread; a batch that takes longer than `POLL_INTERVAL_S_MAX` loses its partitions and cannot commit.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.kafka import client_config, session_config
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import consumer_events_total
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import headers_of
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested
from headrace.schemas.headers import traceparent_of
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import PartitionKey

"""Topic and partition."""

POLL_S = 0.1  # also the longest that a stop waits for the thread
POLL_INTERVAL_S_MAX = 300
RECONNECT_MS_MAX = 1000  # librdkafka's default would notice ten seconds late that Kafka is back
# Announcements are below 1 KiB: this holds thousands of them ready without weighing on memory.
QUEUED_KIB_MAX = 16 * 1024

# The group rebalanced without us: our partitions belong to another member, who begins at the committed offset.
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
    """One announcement with its partition and offset; one from the catalog may say that its body is archived."""

    event: Ingested
    traceparent: str | None
    partition: PartitionKey
    offset: int
    archived_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class PolledBatch:
    """The announcements of one poll by partition, in order, and the offsets that follow them."""

    events: dict[PartitionKey, list[PolledEvent]] = field(default_factory=dict)
    next_offsets: dict[PartitionKey, int] = field(default_factory=dict)


class GroupConsumer:
    """A member of a consumer group. Its methods must not overlap."""

    def __init__(
        self,
        settings: Settings,
        group: str,
        topics: Sequence[str],
        *,
        on_revoked: Callable[[set[PartitionKey]], None],
    ) -> None:
        """`on_revoked` is called, from a thread, with the partitions that were revoked or lost."""
        self._group = group
        self._topics = list(topics)
        self._notify_revoked = on_revoked
        self._config = client_config(
            settings,
            is_logged=True,
            group_id=group,
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_auto_offset_store=False,
            auto_offset_reset="earliest",
            # The other members keep their partitions, and their state of the sources, when a member joins or leaves.
            partition_assignment_strategy="cooperative-sticky",
            **session_config(settings),
            max_poll_interval_ms=POLL_INTERVAL_S_MAX * 1000,
            queued_max_messages_kbytes=QUEUED_KIB_MAX,
            # librdkafka's default pauses for a second whenever its queue fills.
            fetch_queue_backoff_ms=5,
            fetch_wait_max_ms=100,
            reconnect_backoff_max_ms=RECONNECT_MS_MAX,
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"kafka-{group}")
        self._consumer: Consumer | None = None
        self._uncommitted: dict[PartitionKey, int] = {}
        self._revoked: set[PartitionKey] = set()
        self._joined = False
        self.assigned: frozenset[PartitionKey] | None = None
        """The partitions assigned at the last poll; None before the first assignment. Readable from any thread."""

    async def open(self) -> None:
        """Join the group."""
        await self.run(self._open)

    async def poll(self, events_max: int) -> PolledBatch:
        """Return at most `events_max` announcements; an empty batch if none arrives within `POLL_S` seconds.

        Raises:
            KafkaException: Kafka refuses the client.
        """
        return await self.run(lambda: self._poll(events_max))

    async def commit(self, next_offsets: Mapping[PartitionKey, int]) -> None:
        """Commit offsets; may be repeated. Partitions that were reassigned are left to their new owner.

        Raises:
            KafkaException: Kafka rejected the commit.
        """
        if next_offsets:
            await self.run(lambda: self._commit(next_offsets))

    async def seek(self, offsets: Mapping[PartitionKey, int]) -> None:
        """Continue from these offsets at the next poll."""
        if offsets:
            await self.run(lambda: self._seek(offsets))

    async def close(self) -> None:
        """Leave the group, so that its partitions are reassigned at once."""
        if self._consumer is not None:
            await self.run(self._consumer.close)
            self._consumer = None
        self._thread.shutdown(wait=False)

    async def run(self, call: Callable[[], T]) -> T:
        """Run a blocking call on this consumer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def group_metadata(self) -> Any:
        """Return what a transaction needs to commit this member's offsets; call it on the thread of `run`."""
        assert self._consumer is not None
        return self._consumer.consumer_group_metadata()

    def _open(self) -> None:
        self._consumer = Consumer(self._config)
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assigned, on_revoke=self._on_revoked, on_lost=self._on_revoked
        )

    def _poll(self, events_max: int) -> PolledBatch:
        assert self._consumer is not None
        batch = PolledBatch()
        # `consume` would wait for all of `events_max`: the first is waited for, the others come if they are there.
        first = self._consumer.poll(POLL_S)
        # A partition revoked during the poll may be assigned again within the same call: what was returned is ours.
        self._revoked.clear()
        if first is not None:
            rest = self._consumer.consume(events_max - 1, 0) if events_max > 1 else []
            for message in (first, *rest):
                self._add(message, batch)
        # A partition may be revoked between the first message and the others: then its new owner gets all of them.
        assigned = frozenset((partition.topic, partition.partition) for partition in self._consumer.assignment())
        self.assigned = assigned if assigned or self._joined else None
        for key in self._revoked:
            batch.events.pop(key, None)
            batch.next_offsets.pop(key, None)
        return batch

    def _add(self, message: Message, batch: PolledBatch) -> None:
        if (error := message.error()) is not None:
            error = with_acl(error, Operation.READ, message.topic())
            if error.fatal() or error.code() in {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION}:  # noqa: SLF001
                raise KafkaException(error)
            get_log().warning(Action.RETRYING, service="kafka", group=self._group, why=error.str())
            return
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        key = topic, partition
        batch.next_offsets[key] = offset + 1
        try:
            event = decode(message.value(), Ingested)
        except RejectedError as rejected:
            # Another program wrote to our topic: only the operator can act, and a retry cannot help.
            consumer_events_total.labels(self._group, "undecodable").inc()
            get_log().warning(Action.UNDECODABLE, topic=topic, partition=partition, offset=offset, why=rejected.reason)
            return
        trace = traceparent_of(headers_of(message) or [])
        batch.events.setdefault(key, []).append(PolledEvent(event, trace, key, offset))

    def _commit(self, next_offsets: Mapping[PartitionKey, int]) -> None:
        assert self._consumer is not None
        self._uncommitted |= next_offsets
        try:
            answers = self._consumer.commit(offsets=_positions(self._uncommitted), asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() not in _LOST:
                raise
            # Kept: while the partition stays assigned, the next commit includes it.
            get_log().warning(Action.RETRYING, service="kafka", group=self._group, why=error.args[0].str())
            return
        failed = [answer.error for answer in answers or () if answer.error and answer.error.code() not in _LOST]
        if failed:
            raise KafkaException(failed[0])
        self._uncommitted.clear()

    def _seek(self, offsets: Mapping[PartitionKey, int]) -> None:
        assert self._consumer is not None
        assigned = {(partition.topic, partition.partition) for partition in self._consumer.assignment()}
        for position in _positions({key: offset for key, offset in offsets.items() if key in assigned}):
            self._consumer.seek(position)

    def _on_assigned(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        # Called at the end of each rebalance, also without new partitions, so a standby member is told too.
        self._joined = True

    def _on_revoked(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._joined = False
        revoked = {(partition.topic, partition.partition) for partition in partitions}
        for key in revoked:
            self._uncommitted.pop(key, None)
        self._revoked |= revoked
        self._notify_revoked(revoked)


def _positions(offsets: Mapping[PartitionKey, int]) -> list[TopicPartition]:
    return [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
