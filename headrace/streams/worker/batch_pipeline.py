"""One topic's batches in flight: prepared side by side, committed one after another, acknowledged last and in order.

Kafka keeps one number for each partition: everything below it is done. So a batch is acknowledged only after the batch
before it, and its events in the order in which they came, without giving way to anything else in between.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from headrace.runtime import metrics
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.errors import Exit
from headrace.runtime.logs import Action, get_log
from headrace.schemas.events import Kind
from headrace.streams.core.delivery import ConsumedMessage, HeaderPairs
from headrace.streams.core.quota import Quota
from headrace.streams.worker.ingest import Ingest, report
from headrace.streams.worker.ports import StreamEvent, StreamMessage
from headrace.streams.worker.retry import HaltError

HaltProcess: TypeAlias = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """What one lane may hold: batches on their way, messages of one batch, and bytes of all its messages together."""

    batches_max: int
    messages_max: int
    bytes_max: int


class BatchPipeline:
    """Takes events of one kind in, and carries them out in batches. `halt` ends the process and does not return.

    While fewer than `batches_max` batches are on their way, what comes in leaves at once; while all are busy it gathers
    into the next one, up to `messages_max`. So a lone event does not wait, and a backlog goes in full batches.
    """

    def __init__(
        self,
        kind: Kind,
        ingest: Ingest,
        *,
        limits: PipelineLimits,
        quota: Quota,
        halt: HaltProcess,
    ) -> None:
        self._kind = kind
        self._ingest = ingest
        self._limits = limits
        self._quota = quota
        self._halt = halt
        self._waiting: deque[StreamEvent] = deque()
        self._bytes = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._room = asyncio.Event()
        self._closed = False

    async def take(self, events: Sequence[StreamEvent]) -> None:
        """Take events in, as many at a time as there is room for; one that is larger than all the room is taken alone.

        Called by one agent only: the order of the calls is the order of the acknowledgements.
        """
        for event in events:
            size_bytes = size_of(event.message)
            if not self._has_room(size_bytes):
                self._start()  # what was let in so far makes room only once it is on its way
            while not self._has_room(size_bytes):
                self._room.clear()
                await self._room.wait()
            self._waiting.append(event)
            self._bytes += size_bytes
        self._start()

    async def drain(self) -> None:
        """Take nothing more in, and wait until everything taken is acknowledged."""
        self._closed = True
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _has_room(self, size_bytes: int) -> bool:
        if self._closed:
            return False
        if not self._waiting and not self._tasks:
            return True
        fits = len(self._waiting) < self._limits.messages_max
        return fits and self._bytes + size_bytes <= self._limits.bytes_max

    def _start(self) -> None:
        """Send off what waits, while there is a place for another batch."""
        while self._waiting and len(self._tasks) < self._limits.batches_max:
            count = min(len(self._waiting), self._limits.messages_max)
            events = [self._waiting.popleft() for _ in range(count)]
            before = self._tasks[-1] if self._tasks else None
            task = asyncio.create_task(self._carry(events, before), name=f"{self._kind}-batch")
            self._tasks.append(task)
            metrics.worker_batch_messages.labels(self._kind.value).observe(count)
            metrics.worker_batches_in_flight.labels(self._kind.value).inc()
            task.add_done_callback(partial(self._left, sum(size_of(event.message) for event in events)))

    async def _carry(self, events: Sequence[StreamEvent], before: "asyncio.Task[None] | None") -> None:
        started_s = time.monotonic()
        try:
            prepared = await self._ingest.prepare(self._kind, [delivery_of(event.message) for event in events])
            if before is not None:
                await _finished(before)
            self._check_quota(len(events) - len(prepared.refused), len(prepared.refused))
            committed = await self._ingest.commit(prepared)
            report(prepared, committed, started_s)
            reached(CrashPoint.BEFORE_ACK)
            for event in events:
                event.ack()
            await self._ingest.discard(prepared)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, nothing of the batch may be acknowledged
            self._end(error)

    def _check_quota(self, good: int, bad: int) -> None:
        # Before the commit: what is over the quota stays in its topic, for a worker that understands it.
        if self._quota.exceeded(time.monotonic(), good=good, bad=bad):
            raise HaltError(
                Exit.QUOTA,
                f"more than {self._quota.dead_letters_max} messages of {self._kind} rejected within "
                f"{self._quota.window_s:.0f} s, and more than were good: rather a bad deploy than bad sources",
            )

    def _end(self, error: BaseException) -> None:
        # A group holds the faults of parallel PUTs; the first tells as much as all of them.
        root = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error
        if isinstance(root, HaltError):
            self._halt(root.exit_code, str(root))
        else:
            get_log().error(Action.HALTED, kind=self._kind.value, exc_info=root)
            self._halt(Exit.BROKEN, f"{type(root).__name__}: {root}")

    def _left(self, size_bytes: int, task: "asyncio.Task[None]") -> None:
        self._tasks.remove(task)
        self._bytes -= size_bytes
        metrics.worker_batches_in_flight.labels(self._kind.value).dec()
        if task.cancelled():
            # The process is ending, and nothing may be acknowledged after a batch that was not finished.
            self._closed = True
            self._waiting.clear()
            return
        self._start()
        self._room.set()


async def _finished(before: "asyncio.Task[None]") -> None:
    await asyncio.wait([before])
    if before.cancelled():
        raise asyncio.CancelledError


def size_of(message: StreamMessage) -> int:
    """Return the bytes that a message holds in memory, headers aside."""
    return len(message.value or b"") + len(message.key or b"")


def delivery_of(message: StreamMessage) -> ConsumedMessage:
    """Return what Faust's message says, as a plain value."""
    return ConsumedMessage(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_us=round((message.timestamp or 0) * 1_000_000),
        key=message.key,
        value=message.value,
        headers=_pairs(message.headers),
    )


def _pairs(headers: object) -> HeaderPairs:
    if not headers:
        return ()
    items = headers.items() if isinstance(headers, dict) else headers
    return tuple((str(name), value or b"") for name, value in items)  # type: ignore[attr-defined]
