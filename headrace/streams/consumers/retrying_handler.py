"""Handling a batch: each partition's events in their order, the partitions beside each other, failures tried again."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from headrace.runtime.backoff import Backoff
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import consumer_events_total, consumer_handle_seconds
from headrace.streams.consumers.group_consumer import PolledBatch, PolledEvent, TopicPartitionKey

BATCH_S_MAX = 30.0  # after that no further event of a batch is begun, so that partitions can change hands

Handle: TypeAlias = Callable[[PolledEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Retries:
    """How long a failing handler is tried again, in seconds."""

    delay_s: float
    delay_s_max: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Handled:
    """How far each partition came, where it has to go on, and what ended it where it failed for good."""

    next_offsets: dict[TopicPartitionKey, int]
    unfinished: dict[TopicPartitionKey, int]
    errors: list[Exception]


class RetryingHandler:
    """Feeds batches to a handler. `progress` counts what was handled or tried."""

    def __init__(self, group: str, handle: Handle, retries: Retries, stop: asyncio.Event) -> None:
        self._group = group
        self._handle = handle
        self._retries = retries
        self._stop = stop
        self.progress = 0
        self.busy = False

    async def run(self, batch: PolledBatch) -> Handled:
        """Handle a batch; what is not begun when the stop comes, or the batch has taken too long, is unfinished."""
        self.busy = True
        give_up_at = time.monotonic() + BATCH_S_MAX
        handled = Handled(dict(batch.next_offsets), {}, [])
        try:
            await asyncio.gather(*(self._partition(taken, give_up_at, handled) for taken in batch.taken.values()))
        finally:
            self.busy = False
        return handled

    async def _partition(self, events: list[PolledEvent], give_up_at: float, handled: Handled) -> None:
        for taken in events:
            late = self._stop.is_set() or time.monotonic() > give_up_at
            try:
                if not late:
                    await self._one(taken)
                    continue
            except Exception as error:  # noqa: BLE001 - a handler may raise anything; it is given to who consumes
                handled.errors.append(error)
            handled.unfinished[taken.place] = handled.next_offsets[taken.place] = taken.offset
            return

    async def _one(self, taken: PolledEvent) -> None:
        """Handle one event, again and again until it succeeds or its time is up."""
        began = time.monotonic()
        backoff, failures = Backoff(self._retries.delay_s, self._retries.delay_s_max), 0
        while True:
            left_s = began + self._retries.deadline_s - time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    await self._handle(taken)
            except Exception as error:
                self.progress += 1
                consumer_events_total.labels(self._group, "failed").inc()
                failures += 1
                delay_s = backoff.delay_s(failures)
                if time.monotonic() + delay_s > began + self._retries.deadline_s or self._stop.is_set():
                    raise
                get_log().warning(
                    Action.HANDLER_FAILED,
                    group=self._group,
                    record=taken.event.record_id,
                    why=f"{type(error).__name__}: {error}",
                    again_in_s=delay_s,
                )
            else:
                self.progress += 1
                consumer_events_total.labels(self._group, "handled").inc()
                consumer_handle_seconds.labels(self._group).observe(time.monotonic() - began)
                return
            await self._pause(delay_s)

    async def _pause(self, seconds: float) -> None:
        # A stop is not made to wait for a pause: the event is tried once more and then given back.
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
