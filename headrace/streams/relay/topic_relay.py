"""One output topic of the relay: announces its rows of the outbox, once each, in their order.

A row is marked after Kafka committed it. A crash in between leaves rows that are published but not marked, so each new
leader first reads what is published (`published_offsets.py`). Kafka's fencing keeps the topic from changing meanwhile
(`outbox_publisher.py`).

Each topic has its own producer and its own progress: a topic that Kafka refuses, or whose brokers are away, delays no
other. A message that Kafka refuses is isolated by ever smaller transactions, then abridged, then set aside.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum
from typing import TypeVar

from headrace.runtime.background_task import first
from headrace.runtime.backoff import Backoff
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import (
    relay_abridged_total,
    relay_announced_total,
    relay_delay_seconds,
    relay_passed_over_total,
    relay_restarts_total,
    relay_topic_failing,
)
from headrace.runtime.settings import Settings
from headrace.schemas.events import Ingested
from headrace.schemas.topics import Topic
from headrace.store.catalog.outbox import Outbox, Pending, PublishedEvent
from headrace.store.errors import CatalogRevertedError, CatalogUnavailableError, address
from headrace.streams.relay.announcement import Announcement, AnnouncementBatch, announce_each, transaction_limits
from headrace.streams.relay.outbox_publisher import OutboxPublisher
from headrace.streams.relay.published_offsets import PublishedOffsets
from headrace.streams.transaction_errors import MessageRefusedError, ProducerResetError, TopicRefusedError

FAILURES_IN_A_ROW_MAX = 30  # then the process ends, in case it is the process that is at fault

T = TypeVar("T")


class Phase(StrEnum):
    """What a relay is doing."""

    STANDING_BY = "standing by"
    CATCHING_UP = "reading what is published"
    IDLE = "nothing to announce"
    ANNOUNCING = "announcing"
    RETRYING = "waiting after a failure"


class RelayFailedError(Exception):
    """Raised after too many failures in a row: the process has to be started again."""


class TopicRelay:
    """Publishes one topic while the relay leads. `phase` and `steps` show its progress; set `wake` for new rows."""

    def __init__(
        self, settings: Settings, topic: Topic, outbox: Outbox, *, now_us: Callable[[], int], reached: Reached
    ) -> None:
        """`reached` is called at each crash point."""
        self._settings = settings
        self._topic = topic
        self._outbox = outbox
        self._now_us = now_us
        self._reached = reached
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"relay-{topic.name}")
        self._failures = 0
        self._suspects = 0  # the first so many rows hold one that Kafka refuses
        self._refused_bytes: dict[int, int] = {}  # the size of a row that Kafka refused although it seemed to fit
        self.wake = asyncio.Event()
        self.phase = Phase.STANDING_BY
        self.steps = 0
        self.announced = 0

    async def run(self, over: asyncio.Event) -> None:
        """Publish until `over` is set.

        Raises:
            FencedError: another relay is active. RelayFailedError: every attempt fails.
            CatalogRefusedError, CatalogRevertedError.
        """
        try:
            while not over.is_set():
                publisher, again_in_s = OutboxPublisher(self._settings, self._topic, self._reached), 0.0
                try:
                    await self._lead(publisher, over)
                except (ProducerResetError, CatalogUnavailableError) as fault:
                    again_in_s = self._failed(fault)
                finally:
                    await self._blocking(publisher.close)
                await first(again_in_s, over)
        finally:
            self.phase = Phase.STANDING_BY
            relay_topic_failing.labels(self._topic.name).set(0)

    def close(self) -> None:
        """Give up the thread."""
        self._thread.shutdown(wait=False)

    def _failed(self, fault: Exception) -> float:
        """Note a failure; return the seconds until the next attempt."""
        self.phase = Phase.RETRYING
        relay_restarts_total.inc()
        why = str(fault).splitlines()[0]
        if isinstance(fault, MessageRefusedError):
            # The next transaction is half as large, down to the row; nothing is gained by waiting.
            get_log().warning(Action.RETRYING, topic=self._topic.name, why=why)
            return 0.0
        self._failures += 1
        relay_topic_failing.labels(self._topic.name).set(1)
        again_in_s = Backoff(self._settings.retry_delay_s, self._settings.retry_delay_s_max).delay_s(self._failures)
        if isinstance(fault, TopicRefusedError):
            hint = "the other topics go on; docs/runbook.md, Announcements of a topic stop"
            get_log().error(Action.REFUSED, topic=self._topic.name, why=why, again_in_s=again_in_s, hint=hint)
        elif self._failures > FAILURES_IN_A_ROW_MAX:
            raise RelayFailedError(f"{self._topic.name} failed {self._failures} times in a row: {why}")
        else:
            get_log().warning(Action.RETRYING, topic=self._topic.name, why=why, again_in_s=again_in_s)
        return again_in_s

    async def _lead(self, publisher: OutboxPublisher, over: asyncio.Event) -> None:
        self._enter(Phase.CATCHING_UP)
        await self._blocking(publisher.open)
        await self._catch_up(over)
        while not over.is_set():
            self.wake.clear()
            rows_max, bytes_max = transaction_limits(self._settings.relay_rows_max, self._failures)
            if self._suspects:
                rows_max = min(rows_max, max(1, self._suspects // 2))
            rows = await self._outbox.pending(self._topic.name, rows_max, bytes_max=bytes_max)
            if rows:
                await self._announce(publisher, rows)
            else:
                self._succeeded()
                self._enter(Phase.IDLE)
                await first(self._settings.relay_poll_s, self.wake, over)

    async def _catch_up(self, over: asyncio.Event) -> None:
        """Mark every row that is published already."""
        published, marked = PublishedOffsets(self._settings, [self._topic.name]), 0
        try:
            checkpoints = await self._outbox.checkpoints()
            # What is on the topic before this catalog's relays have read it is not theirs.
            is_first = not any(topic == self._topic.name for topic, _ in checkpoints)
            await self._blocking(published.open, checkpoints)
            while (events := await self._blocking(published.read)) is not None:
                if over.is_set():
                    return
                if events.event_ids:
                    count = await self._outbox.mark_seen(self._topic.name, events.event_ids)
                    if not is_first and count < len(events.event_ids):
                        await self._require_known(events.events)
                    marked += count
                if not is_first:
                    await self._outbox.mark([], events.next_offsets)
                self._enter(Phase.CATCHING_UP)
            await self._outbox.mark([], published.next_offsets)
        finally:
            await self._blocking(published.close)
        get_log().info(Action.CAUGHT_UP, topic=self._topic.name, found=marked)

    async def _require_known(self, events: list[PublishedEvent]) -> None:
        """Announcements that the catalog does not know, and would repeat, come from a newer one."""
        unknown = await self._outbox.unknown(events)
        if unknown:
            raise CatalogRevertedError(
                f"it does not know {len(unknown)} of the announcements on {self._topic.name}",
                where=address(self._settings.postgres_dsn.get_secret_value()),
            )

    async def _announce(self, publisher: OutboxPublisher, rows: list[Pending]) -> None:
        self._enter(Phase.ANNOUNCING)
        batch = self._fitting(publisher, rows)
        if batch.oversize:
            # The limit may have been raised since it was read.
            await self._blocking(publisher.read_limit)
            batch = self._fitting(publisher, rows)
        await self._set_aside(batch.skipped)
        if batch.rows:
            await self._publish(publisher, batch)
        self._succeeded()
        self._suspects = max(0, self._suspects - len(rows))
        self.announced += len(batch.rows)
        self._enter(Phase.ANNOUNCING)
        self._measure(batch)

    def _fitting(self, publisher: OutboxPublisher, rows: list[Pending]) -> AnnouncementBatch:
        """Return the messages of rows, each within what Kafka takes."""
        limit, refused = publisher.bytes_max, self._refused_bytes
        return announce_each(rows, lambda row: min(limit, refused.get(row.outbox_id, limit + 1) - 1))

    async def _publish(self, publisher: OutboxPublisher, batch: AnnouncementBatch) -> None:
        self._reached(CrashPoint.RELAY_BEFORE_SEND)
        try:
            checkpoints = await self._blocking(publisher.announce, batch.messages)
        except MessageRefusedError:
            self._suspects = len(batch.rows)
            if len(batch.rows) == 1:
                self._refused_bytes = {batch.rows[0].outbox_id: batch.messages[0].size_bytes}
            raise
        self._reached(CrashPoint.RELAY_BEFORE_MARK)
        await self._outbox.mark([row.outbox_id for row in batch.rows], checkpoints)
        self._reached(CrashPoint.RELAY_AFTER_MARK)

    async def _set_aside(self, rows: list[tuple[Pending, str]]) -> None:
        """Mark and log rows that cannot be announced: unmarked they would be read again for ever."""
        if not rows:
            return
        await self._outbox.set_aside({row.outbox_id: why for row, why in rows})
        for row, why in rows:
            relay_passed_over_total.labels(row.topic).inc()
            get_log().error(
                Action.PASSED_OVER,
                outbox_id=row.outbox_id,
                event_id=str(row.event_id),
                topic=row.topic,
                why=why,
                hint="`headrace outbox` lists what is set aside; `headrace outbox --retry` announces it after a repair",
            )

    def _succeeded(self) -> None:
        self._failures = 0
        self._refused_bytes = {}
        relay_topic_failing.labels(self._topic.name).set(0)

    def _measure(self, batch: AnnouncementBatch) -> None:
        now_us = self._now_us()
        relay_announced_total.labels(self._topic.name).inc(len(batch.rows))
        relay_abridged_total.labels(self._topic.name).inc(_abridged(batch.messages))
        for row in batch.rows:
            assert row.event is not None
            since_us = row.event.ingested_at_us if isinstance(row.event, Ingested) else row.event.rejected_at_us
            relay_delay_seconds.observe(max(0, now_us - since_us) / 1_000_000)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.steps += 1

    async def _blocking(self, call: Callable[..., T], *values: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *values)


def _abridged(messages: list[Announcement]) -> int:
    return sum(message.is_abridged for message in messages)


async def unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
    """Return the result of `work`, or None if the stop comes first."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for pending in (task, stopped):
            pending.cancel()
            with suppress(asyncio.CancelledError):
                await pending
