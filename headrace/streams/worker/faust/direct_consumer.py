"""Faust's consumer with the messages of a fetch as one item, and one committed offset for each partition.

Faust hands on message by message, each through two tasks and a queue, and keeps a list of acknowledged offsets and of
those without a message. Here all messages of a partition that were fetched together pass as one `PartitionBatch`, which
Faust never acknowledges; its last durable offset is what is committed. The delivery is awaited
directly; a rebalance meanwhile stops the fetcher, which cancels this loop, and batches of an older generation are
skipped by the stream and delivered again. Everything else is as in faust-streaming 0.15.3,
`faust/transport/consumer.py`, `Consumer._drain_messages` and `getmany`. Offsets that retention deleted before they were
read are reported.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import faust
from aiokafka.consumer import subscription_state
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from headrace.streams.core.delivery import ConsumedMessage

_FETCH_WAIT_S = 1.0
_INT64_MAX = 2**63 - 1  # a producer's own time may be any number of milliseconds; the catalog holds microseconds

OnAssigned: TypeAlias = Callable[[Iterable[TP]], Awaitable[frozenset[TP]]]
"""Called before anything of an assignment is read; returns the partitions whose committed offset is void."""
OnDeleted: TypeAlias = Callable[[TP, int, int], Awaitable[None]]
"""Called with a partition, the first offset that retention deleted before it was read, and the one after the last."""


class PartitionBatch(ConsumerMessage):
    """Messages of one partition in a row, which Faust carries as one message without a value."""

    __slots__ = ("_consumer", "messages")

    def __init__(self, consumer: "DirectConsumer", tp: TP, messages: Sequence[ConsumedMessage]) -> None:
        """Take messages of `tp`, in the order of their offsets; there is at least one."""
        last = messages[-1]
        super().__init__(
            *(tp.topic, tp.partition, last.offset, last.timestamp_us / 1e6, 0),
            *(None, None, None, None),  # headers, key, value and checksum
            tp=tp,
            generation_id=consumer.app.consumer_generation_id,
        )
        self._consumer = consumer
        self.messages = messages

    def ack(self, _consumer: Any, n: int = 1) -> bool:  # noqa: ARG002 - Faust's interface
        """Do nothing: Faust acknowledges what it skips."""
        return False

    def finish(self, next_offset: int) -> None:
        """Let the messages below this offset be committed, unless the partition was assigned anew meanwhile."""
        self._consumer.finish(self.tp, next_offset, self.generation_id)


class DirectConsumer(driver.Consumer):
    """Delivers the messages of each fetch as one batch."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._finished: dict[TP, int] = {}  # the next offset to read of each partition, after all that are durable
        self._void: frozenset[TP] = frozenset()
        self._headrace: FaustApp = self.app  # type: ignore[assignment]

    def finish(self, tp: TP, next_offset: int, generation_id: int | None) -> None:
        """Let the messages below this offset be committed; those of an older generation are delivered again."""
        if generation_id == self.app.consumer_generation_id:
            self._finished[tp] = max(next_offset, self._finished.get(tp, 0))

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Let the app look at the partitions before anything of them is read."""
        self._finished.clear()
        self._void = await self._headrace.on_assigned(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commit what is finished of partitions that may go to another member; Faust forgets it first."""
        await self.commit()
        await super().on_partitions_revoked(revoked)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Commit what is finished before a changed subscription: aiokafka then forgets what it is assigned."""
        await self.commit()
        await super().subscribe(topics)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets; where they are void, everything that the partition has is to be read."""
        await super().perform_seek()
        for tp in self._void:
            self._read_offset[tp] = self._committed_offset[tp] = None
        if self._void:
            # A committed offset of an older topic may lie within the one that is there now.
            await self._thread.seek_to_beginning(*map(driver.ensure_aiokafka_TP, self._void))

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        return (tp for tp in list(self._finished) if topics is None or tp in topics or tp.topic in topics)

    def _new_offset(self, tp: TP) -> int | None:
        offset = self._finished.get(tp)
        if offset is None or offset == self._committed_offset[tp]:
            return None
        self._void -= {tp}
        return offset

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                await asyncio.sleep(0)
                records, active = await self._wait_next_records(_FETCH_WAIT_S)
                if not await self._deliver(records or {}, active):
                    await self._seek_back()
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _seek_back(self) -> None:
        # What was fetched and not delivered is fetched again: a later batch would finish it.
        try:
            await self.perform_seek()
        except Exception as error:  # noqa: BLE001 - as Faust does: the rebalance that follows seeks again
            self.log.warning("cannot seek to the committed offsets: %r", error)

    async def _deliver(self, records: Mapping[TP, list[Any]], active: set[TP] | None) -> bool:
        """Deliver what was fetched; return False if a rebalance began, and the rest was not delivered."""
        generation_id = self.app.consumer_generation_id
        for key, fetched in records.items():
            tp = TP(*key)  # aiokafka's own type of it
            if active is not None and tp not in active:
                continue
            expected = self._read_offset[tp] or 0
            fetched = [record for record in fetched if record.offset >= expected]  # noqa: PLW2901
            if not fetched:
                continue
            # Also before the first message of a partition: others may have been deleted since it was assigned.
            if fetched[0].offset > expected:
                await self._report_deleted(tp, expected, fetched[0].offset)
            if not self.flow_active or self.app.consumer_generation_id != generation_id:
                return False
            batch = PartitionBatch(self, tp, [consumed_message(tp, record) for record in fetched])
            await self.callback(batch)
            self._read_offset[tp] = batch.offset + 1
        return self.flow_active

    async def _report_deleted(self, tp: TP, start: int, end: int) -> None:
        """Report what retention deleted; other offsets without a message are markers, or were compacted."""
        thread: _CommittedThread = self._thread  # type: ignore[assignment]
        for deleted in thread.take_deleted(tp, end):
            first, after_last = max(start, deleted.start), min(end, deleted.stop)
            if first < after_last:
                await self._headrace.on_deleted(tp, first, after_last)

    def on_buffer_full(self, tp: Any) -> None:
        """Keep fetching: a full buffer already blocks the delivery of the next message.

        Faust pauses the partition instead, and once all are paused it sleeps for a second, even if the buffer has room.
        """

    def on_buffer_drop(self, tp: Any) -> None:
        """Do nothing: no partition was paused."""

    def _new_consumer_thread(self) -> Any:
        return _CommittedThread(self, loop=self.loop, beacon=self.beacon)


def consumed_message(tp: TP, record: Any) -> ConsumedMessage:
    """Return aiokafka's record as a plain value."""
    return ConsumedMessage(
        topic=tp.topic,
        partition=tp.partition,
        offset=record.offset,
        timestamp_us=max(-_INT64_MAX, min((record.timestamp or 0) * 1000, _INT64_MAX)),
        key=record.key,
        value=record.value,
        headers=tuple([(name, value or b"") for name, value in record.headers or ()]),
    )


class _PartitionState(subscription_state.TopicPartitionState):  # type: ignore[misc]
    """aiokafka's state of a partition, which also keeps the offsets that a reset of the position skipped.

    The first position of a partition without a committed offset is such a reset, from 0.
    """

    _position_before: int | None = None

    def __init__(self, assignment: Any) -> None:
        super().__init__(assignment)
        self.deleted: deque[range] = deque()

    def await_reset(self, strategy: Any) -> None:
        self._position_before = self._position
        super().await_reset(strategy)

    def reset_to(self, position: int) -> None:
        before, self._position_before = self._position_before or 0, None
        if before < position:
            self.deleted.append(range(before, position))
        super().reset_to(position)


def _notice_resets() -> None:
    """Let the aiokafka consumers of this process keep what their resets skip; may be repeated."""
    subscription_state.TopicPartitionState = _PartitionState


class _CommittedThread(driver.AIOKafkaConsumerThread):
    """The fetching thread; it reads only committed messages."""

    def take_deleted(self, tp: TP, end: int) -> Iterator[range]:
        """Yield each range below `end` that was found deleted, once."""
        subscription = self._consumer._subscription.subscription if self._consumer else None  # noqa: SLF001
        assignment = subscription.assignment if subscription else None
        state = assignment.state_value(driver.ensure_aiokafka_TP(tp)) if assignment else None
        while state is not None and state.deleted and state.deleted[0].start < end:
            yield state.deleted.popleft()

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        # Faust offers no setting for it; aiokafka reads it when the consumer starts.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        return consumer


class DirectTransport(driver.Transport):
    """The transport that creates `DirectConsumer`."""

    Consumer = DirectConsumer


async def _nothing_void(_assigned: Iterable[TP]) -> frozenset[TP]:
    return frozenset()


async def _not_reported(_tp: TP, _start: int, _end: int) -> None:
    return


class FaustApp(faust.App):
    """A Faust app with this transport, without Faust's monitor and without files on disk.

    Set `on_assigned` and `on_deleted` before it starts.
    """

    on_assigned: OnAssigned = staticmethod(_nothing_void)
    on_deleted: OnDeleted = staticmethod(_not_reported)

    def _new_transport(self) -> Any:
        _notice_resets()
        return DirectTransport(self.conf.broker_consumer, self)

    async def resubscribe(self) -> None:
        """Subscribe to the names that the agents' topics have now: one rebalance."""
        # Faust's conductor does the same after a change of its own, 45 seconds later.
        conductor: Any = self.topics
        await self.consumer.subscribe(await conductor._update_indices())  # noqa: SLF001

    def on_init_dependencies(self) -> Any:
        """Remove Faust's monitor: it costs a tenth of the time of each message, and our metrics replace it."""
        services = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return services

    def _create_directories(self) -> None:
        """Create no directories: they are for tables, and there are none."""
