"""Handle a batch: the events of a partition in order, partitions concurrently, failures retried."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from headrace.runtime.backoff import Backoff
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import consumer_events_total, consumer_handle_seconds
from headrace.schemas.topics import PartitionKey
from headrace.store.errors import BlobErasedError
from headrace.streams.consumers.group_consumer import PolledBatch, PolledEvent
from headrace.streams.consumers.handler_errors import HandlerErrors, OnError
from headrace.streams.worker.retry import RetryPolicy

BATCH_S_MAX = 30.0  # after that no further event of a batch is begun, so that a rebalance can happen

Handle: TypeAlias = Callable[[PolledEvent], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Handled:
    """The next offset of each partition, the offset of its first unfinished event, and the errors that ended it."""

    next_offsets: dict[PartitionKey, int]
    unfinished: dict[PartitionKey, int]
    errors: list[Exception]


class RetryingHandler:
    """Calls a handler for the events of a batch. `progress` counts the attempts."""

    def __init__(
        self,
        group: str,
        handle: Handle,
        policy: RetryPolicy,
        stop: asyncio.Event,
        *,
        errors: HandlerErrors = HandlerErrors(),  # noqa: B008 - it is immutable
    ) -> None:
        self._group = group
        self._handle = handle
        self._errors = errors
        self._policy = policy
        self._stop = stop
        self.progress = 0
        self.busy = False

    async def run(self, batch: PolledBatch) -> Handled:
        """Handle a batch; events that are not begun when `stop` is set or `BATCH_S_MAX` has passed are unfinished."""
        self.busy = True
        deadline = time.monotonic() + BATCH_S_MAX
        handled = Handled(dict(batch.next_offsets), {}, [])
        try:
            await asyncio.gather(
                *(self._handle_partition(events, deadline, handled) for events in batch.events.values())
            )
        finally:
            self.busy = False
        return handled

    async def _handle_partition(self, events: list[PolledEvent], deadline: float, handled: Handled) -> None:
        for polled in events:
            late = self._stop.is_set() or time.monotonic() > deadline
            try:
                if not late:
                    await self._handle_event(polled)
                    continue
            except Exception as error:  # noqa: BLE001 - a handler may raise anything; the caller of `consume` gets it
                handled.errors.append(error)
            handled.unfinished[polled.partition] = handled.next_offsets[polled.partition] = polled.offset
            return

    async def _handle_event(self, polled: PolledEvent) -> None:
        """Call the handler for one event until it succeeds or its deadline has passed."""
        began = time.monotonic()
        backoff, failures = Backoff(self._policy.delay_s, self._policy.delay_s_max), 0
        while True:
            left_s = began + self._policy.deadline_s - time.monotonic()
            try:
                async with asyncio.timeout(left_s):
                    await self._handle(polled)
            except BlobErasedError:
                self.progress += 1
                consumer_events_total.labels(self._group, "erased").inc()
                get_log().info(Action.PASSED_OVER, group=self._group, record=polled.event.record_id, why="erased")
                return
            except Exception as error:
                self.progress += 1
                consumer_events_total.labels(self._group, "failed").inc()
                failures += 1
                delay_s = backoff.delay_s(failures)
                reaction = self._errors.reaction(error)
                if reaction is OnError.SKIP:
                    self._log_failed(polled, error, skipped=True)
                    consumer_events_total.labels(self._group, "skipped").inc()
                    return
                late = time.monotonic() + delay_s > began + self._policy.deadline_s
                if reaction is OnError.STOP or late or self._stop.is_set():
                    raise
                self._log_failed(polled, error, again_in_s=delay_s)
            else:
                self.progress += 1
                consumer_events_total.labels(self._group, "handled").inc()
                consumer_handle_seconds.labels(self._group).observe(time.monotonic() - began)
                return
            await self._wait(delay_s)

    def _log_failed(self, polled: PolledEvent, error: Exception, **outcome: object) -> None:
        get_log().warning(
            Action.HANDLER_FAILED,
            group=self._group,
            record=polled.event.record_id,
            why=f"{type(error).__name__}: {error}",
            at=self._errors.place_of(error),
            **outcome,
        )

    async def _wait(self, seconds: float) -> None:
        # A stop does not wait for the delay: the event is tried once more and then left unfinished.
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return
