"""Faust's consumer without the two tasks for each message that cost a third of its time.

Faust delivers each message through `wait_first(callback(message), suspend_flow.wait())`, which creates and cancels two
tasks so that a rebalance can interrupt a full buffer. Here the callback is awaited directly while messages flow; a
rebalance meanwhile stops the fetcher, which cancels this loop, and messages of an older generation are skipped by the
stream and delivered again. Everything else is as in faust-streaming 0.15.3, `faust/transport/consumer.py`,
`Consumer._drain_messages`, except for offsets without a message: Faust expands them into a list, 63 MiB for each
million; here they are one range. Offsets that retention deleted before they were read are reported.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, TypeAlias

import faust
from aiokafka.consumer import subscription_state
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

_YIELD_EVERY_MESSAGES = 100  # lets the event loop run, and with it the heartbeat
_FETCH_WAIT_S = 1.0

OnAssigned: TypeAlias = Callable[[Iterable[TP]], Awaitable[frozenset[TP]]]
"""Called before anything of an assignment is read; returns the partitions whose committed offset is void."""
OnDeleted: TypeAlias = Callable[[TP, int, int], Awaitable[None]]
"""Called with a partition, the first offset that retention deleted before it was read, and the one after the last."""


def next_offset(committed: int | None, acked: list[int], gaps: "deque[range]") -> tuple[int | None, int]:
    """Return the offset to commit and how many of `acked` are below it; the offset is None if nothing new is done.

    `acked` is sorted; `gaps` are offsets without a message, in order. A gap counts as done with the message after it.
    Gaps below the returned offset are removed.
    """
    position, count = committed, 0
    for offset in acked:
        if position is not None and offset > _after_gaps(position, gaps):
            break
        position, count = max(position or 0, offset + 1), count + 1
        while gaps and gaps[0].stop <= position:
            gaps.popleft()
    return (position if count and position != committed else None), count


def _after_gaps(position: int, gaps: Iterable[range]) -> int:
    for gap in gaps:
        if gap.start > position:
            break
        position = max(position, gap.stop)
    return position


class DirectConsumer(driver.Consumer):
    """Delivers messages without creating tasks for each."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._gaps: defaultdict[TP, deque[range]] = defaultdict(deque)
        self._void: frozenset[TP] = frozenset()
        self._headrace: FaustApp = self.app  # type: ignore[assignment]

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Let the app look at the partitions before anything of them is read."""
        self._void = await self._headrace.on_assigned(assigned)
        await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget the gaps of partitions that go to another member."""
        for tp in revoked:
            self._gaps.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    async def perform_seek(self) -> None:
        """Seek to the committed offsets; where they are void, everything that the partition has is to be read."""
        await super().perform_seek()
        self._gaps.clear()
        for tp in self._void:
            self._read_offset[tp] = self._committed_offset[tp] = None
        if self._void:
            # A committed offset of an older topic may lie within the one that is there now.
            await self._thread.seek_to_beginning(*map(driver.ensure_aiokafka_TP, self._void))

    def _new_offset(self, tp: TP) -> int | None:
        acked = self._acked[tp]
        acked.sort()
        offset, count = next_offset(self._committed_offset[tp], acked, self._gaps[tp])
        if offset is not None:
            self._void -= {tp}
        self._acked_index[tp].difference_update(acked[:count])
        del acked[:count]
        return offset

    async def _drain_messages(self, fetcher: Any) -> None:
        try:
            while not (self.should_stop or fetcher.should_stop):
                messages = self.getmany(timeout=_FETCH_WAIT_S)
                await asyncio.sleep(0)
                await self._deliver(messages)
        except self.consumer_stopped_errors:
            if not self.transport.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not self.transport.app.should_stop:
                raise

    async def _deliver(self, messages: Any) -> None:
        delivered = 0
        async for tp, message in messages:
            delivered += 1
            if delivered % _YIELD_EVERY_MESSAGES == 0:
                await asyncio.sleep(0)
            expected = self._read_offset[tp]
            if expected is not None and message.offset < expected:
                continue
            if expected is not None and message.offset > expected:
                await self._skip(tp, expected, message.offset)
            if self.flow_active:
                await self.callback(message)
            else:
                await self.wait_first(self.callback(message), self.suspend_flow.wait())
            self._read_offset[tp] = message.offset + 1

    async def _skip(self, tp: TP, start: int, end: int) -> None:
        """Count offsets without a message as done: transaction markers, compacted messages, and deleted ones."""
        thread: _CommittedThread = self._thread  # type: ignore[assignment]
        for deleted in thread.take_deleted(tp, end):
            first, after_last = max(start, deleted.start), min(end, deleted.stop)
            if first < after_last:
                await self._headrace.on_deleted(tp, first, after_last)
        self._gaps[tp].append(range(start, end))

    def on_buffer_full(self, tp: Any) -> None:
        """Keep fetching: a full buffer already blocks the delivery of the next message.

        Faust pauses the partition instead, and once all are paused it sleeps for a second, even if the buffer has room.
        """

    def on_buffer_drop(self, tp: Any) -> None:
        """Do nothing: no partition was paused."""

    def _new_consumer_thread(self) -> Any:
        return _CommittedThread(self, loop=self.loop, beacon=self.beacon)


class _PartitionState(subscription_state.TopicPartitionState):  # type: ignore[misc]
    """aiokafka's state of a partition, which also keeps what was skipped when the position was out of range."""

    _position_before: int | None = None

    def __init__(self, assignment: Any) -> None:
        super().__init__(assignment)
        self.deleted: deque[range] = deque()

    def await_reset(self, strategy: Any) -> None:
        self._position_before = self._position
        super().await_reset(strategy)

    def reset_to(self, position: int) -> None:
        before, self._position_before = self._position_before, None
        if before is not None and before < position:
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

    def on_init_dependencies(self) -> Any:
        """Remove Faust's monitor: it costs a tenth of the time of each message, and our metrics replace it."""
        services = super().on_init_dependencies()
        self.sensors.remove(self.monitor)
        return services

    def _create_directories(self) -> None:
        """Create no directories: they are for tables, and there are none."""
