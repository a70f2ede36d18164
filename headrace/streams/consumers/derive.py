"""A consumer that computes a result for every frame and publishes it exactly once, whatever ends the process."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias
from uuid import uuid4

from confluent_kafka import KafkaException

from headrace.runtime.backoff import Backoff
from headrace.runtime.errors import Exit
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.schemas.events import Ingested, Kind, PerceivedFrame, PreprocessedFrame
from headrace.schemas.topics import PartitionKey, ingested_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.body import Body
from headrace.streams.consumers.group_consumer import GroupConsumer, PolledBatch, PolledEvent
from headrace.streams.consumers.results import ResultMessage, Results, message_of
from headrace.streams.consumers.retrying_handler import Handled, RetryingHandler
from headrace.streams.transaction_errors import ProducerResetError
from headrace.streams.worker.retry import RetryPolicy

FAILURES_IN_A_ROW_MAX = 30  # then the process ends, in case it is the process that is at fault

TOPICS = (ingested_topic(Kind.FRAME).name,)

Compute: TypeAlias = Callable[[Ingested, Body, PartitionKey], Awaitable[PreprocessedFrame | PerceivedFrame]]


class DerivingConsumer:
    """Polls frames, computes a result for each, and publishes results and offsets in one transaction.

    `forget` is called with revoked partitions, and with None for all of them: their events may be delivered again.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        compute: Compute,
        *,
        blobs: Blobs,
        forget: Callable[[set[PartitionKey] | None], None],
    ) -> None:
        self._settings = settings
        self.group = f"headrace-{name}"
        self._compute = compute
        self._blobs = blobs
        self._forget = forget
        self._results: dict[PartitionKey, list[ResultMessage]] = {}
        self._handler: RetryingHandler | None = None
        self._consumer: GroupConsumer | None = None
        self._failures = 0
        self._publishing = False
        self.published = 0

    def waiting(self) -> bool:
        """Return whether a batch is being handled or published, for the watchdog."""
        return self._publishing or (self._handler is not None and self._handler.busy)

    def progress(self) -> object:
        """Return a value that changes with every step of progress."""
        return self.published, self._failures, self._handler.progress if self._handler else 0

    def assigned(self) -> Iterable[PartitionKey] | None:
        """Return the partitions assigned to this member; None while it is not a member."""
        return self._consumer.assigned if self._consumer else None

    async def run(self, stop: asyncio.Event) -> int:
        """Consume until `stop` is set; return the exit code.

        Raises:
            HeadraceError: a frame's body could not be read until the deadline.
        """
        while not stop.is_set():
            try:
                await self._member(stop)
            except (ProducerResetError, KafkaException) as fault:
                self._failures += 1
                if self._failures > FAILURES_IN_A_ROW_MAX:
                    get_log().error(Action.HALTED, why=str(fault), failures=self._failures)
                    return Exit.TRANSIENT
                get_log().warning(Action.RETRYING, service="kafka", group=self.group, why=str(fault))
                backoff = Backoff(self._settings.retry_delay_s, self._settings.retry_delay_s_max)
                await asyncio.sleep(backoff.delay_s(self._failures))
        return Exit.OK

    async def _member(self, stop: asyncio.Event) -> None:
        """Be a member of the group until `stop` is set or Kafka fails."""
        settings = self._settings
        self._forget(None)
        policy = RetryPolicy(settings.retry_delay_s, settings.retry_delay_s_max, settings.processing_deadline_s)
        handler = self._handler = RetryingHandler(self.group, self._handle, policy, stop)
        consumer = GroupConsumer(settings, self.group, TOPICS, on_revoked=self._forget)
        # Each membership has its own transactional id: the group's generation fences a member that lost a partition.
        results = Results(settings, f"{self.group}-{uuid4()}")
        try:
            await consumer.run(results.open)
            await consumer.open()
            self._consumer = consumer
            get_log().info(Action.READY, group=self.group)
            while not stop.is_set():
                batch = await consumer.poll(settings.consumer_events_max)
                if batch.next_offsets:
                    await self._batch(batch, consumer, results, handler)
        finally:
            self._publishing = False
            self._consumer = None
            await consumer.run(results.close)
            await consumer.close()

    async def _batch(
        self, batch: PolledBatch, consumer: GroupConsumer, results: Results, handler: RetryingHandler
    ) -> None:
        self._results = {}
        handled: Handled = await handler.run(batch)
        messages = [message for messages in self._results.values() for message in messages]
        self._publishing = True
        await consumer.run(lambda: results.publish(messages, handled.next_offsets, consumer.group_metadata()))
        self._publishing = False
        self._failures = 0
        self.published += len(messages)
        if handled.errors:
            raise handled.errors[0]
        await consumer.seek(handled.unfinished)

    async def _handle(self, polled: PolledEvent) -> None:
        result = await self._compute(polled.event, Body(polled.event, self._blobs), polled.partition)
        self._results.setdefault(polled.partition, []).append(message_of(result, polled.traceparent))
