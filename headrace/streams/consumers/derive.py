"""A consumer that says something about every frame: results exactly once, whatever ends it on the way."""

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
from headrace.schemas.topics import ingested_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.streams.consumers.body import Body
from headrace.streams.consumers.group_consumer import GroupConsumer, PolledBatch, PolledEvent, TopicPartitionKey
from headrace.streams.consumers.results import ResultMessage, Results, message_of
from headrace.streams.consumers.retrying_handler import Handled, Retries, RetryingHandler
from headrace.streams.producer_reset import ProducerResetError

FAILURES_IN_A_ROW_MAX = 30  # then the process ends, in case it is the process that is at fault

TOPICS = (ingested_topic(Kind.FRAME).name,)

Compute: TypeAlias = Callable[[Ingested, Body, TopicPartitionKey], Awaitable[PreprocessedFrame | PerceivedFrame]]


class Deriving:
    """Takes frames, computes a result for each, publishes results and offsets together.

    `forget` is told of partitions that went to other members; with None, of all: what was taken may come again.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        compute: Compute,
        *,
        blobs: Blobs,
        forget: Callable[[set[TopicPartitionKey] | None], None],
    ) -> None:
        self._settings = settings
        self.group = f"headrace-{name}"
        self._compute = compute
        self._blobs = blobs
        self._forget = forget
        self._made: dict[TopicPartitionKey, list[ResultMessage]] = {}
        self._handling: RetryingHandler | None = None
        self._intake: GroupConsumer | None = None
        self._failures = 0
        self._publishing = False
        self.published = 0

    def waiting(self) -> bool:
        """Say whether there is work in hand, for the watchdog."""
        return self._publishing or (self._handling is not None and self._handling.busy)

    def progress(self) -> object:
        """Return what differs once something moved."""
        return self.published, self._failures, self._handling.progress if self._handling else 0

    def assigned(self) -> Iterable[TopicPartitionKey] | None:
        """Return the partitions that are this member's; None while it is not yet a member, or no longer one."""
        return self._intake.assigned if self._intake else None

    async def run(self, stop: asyncio.Event) -> int:
        """Work until `stop` is set; returns the exit code.

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
        """Be a member of the group until the stop, or until something failed."""
        settings = self._settings
        self._forget(None)
        retries = Retries(settings.retry_delay_s, settings.retry_delay_s_max, settings.processing_deadline_s)
        handling = self._handling = RetryingHandler(self.group, self._one, retries, stop)
        intake = GroupConsumer(settings, self.group, TOPICS, given_up=self._forget)
        # A name of its own for each membership: the group's generation, not the name, fences who lost a partition.
        results = Results(settings, f"{self.group}-{uuid4()}")
        try:
            await intake.run(results.open)
            await intake.open()
            self._intake = intake
            get_log().info(Action.READY, group=self.group)
            while not stop.is_set():
                batch = await intake.take(settings.consumer_events_max)
                if batch.next_offsets:
                    await self._batch(batch, intake, results, handling)
        finally:
            self._publishing = False
            self._intake = None
            await intake.run(results.close)
            await intake.close()

    async def _batch(
        self, batch: PolledBatch, intake: GroupConsumer, results: Results, handling: RetryingHandler
    ) -> None:
        self._made = {}
        handled: Handled = await handling.run(batch)
        messages = [message for made in self._made.values() for message in made]
        self._publishing = True
        await intake.run(lambda: results.publish(messages, handled.next_offsets, intake.group_metadata()))
        self._publishing = False
        self._failures = 0
        self.published += len(messages)
        if handled.errors:
            raise handled.errors[0]
        await intake.give_back(handled.unfinished)

    async def _one(self, taken: PolledEvent) -> None:
        result = await self._compute(taken.event, Body(taken.event, self._blobs), taken.place)
        self._made.setdefault(taken.place, []).append(message_of(result, taken.traceparent))
