"""The relay: publishes the rows of the outbox, once each, in their order.

A row is marked after Kafka committed it. A crash in between leaves rows that are published but not marked, so each new
leader first reads what is published (`published_offsets.py`). Kafka's fencing keeps the topics from changing meanwhile
(`outbox_publisher.py`); the leader lock in PostgreSQL keeps two relays from fencing each other again and again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum
from typing import TypeVar
from uuid import UUID

from headrace.runtime import crash_points
from headrace.runtime.backoff import Backoff
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import (
    relay_announced_total,
    relay_delay_seconds,
    relay_leading,
    relay_passed_over_total,
    relay_pending_rows,
    relay_restarts_total,
)
from headrace.runtime.settings import Settings
from headrace.schemas.events import Ingested
from headrace.store.catalog.outbox import Outbox, Pending
from headrace.store.catalog.relay_session import LeaderLock, OutboxListener
from headrace.store.errors import CatalogRevertedError, CatalogUnavailableError, address
from headrace.streams.relay.announcement import announce_each, transaction_limits
from headrace.streams.relay.outbox_publisher import OutboxPublisher
from headrace.streams.relay.published_offsets import PublishedOffsets
from headrace.streams.transaction_errors import FencedError, ProducerResetError

FAILURES_IN_A_ROW_MAX = 30  # then the process ends, in case it is the process that is at fault

COUNT_EVERY_S = 5.0
COUNT_SHARE_MAX = 0.05  # of the time may go into counting, however long the backlog

T = TypeVar("T")


class Phase(StrEnum):
    """What a relay is doing."""

    STANDING_BY = "standing by"
    CATCHING_UP = "reading what is published"
    IDLE = "nothing to announce"
    ANNOUNCING = "announcing"


class Relay:
    """Publishes the outbox while it holds the leader lock. `phase` and `steps` show its progress."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        *,
        now_us: Callable[[], int],
        reached: Reached = crash_points.reached,
    ) -> None:
        """`reached` is called at each crash point."""
        self._settings = settings
        self._outbox = outbox
        self._now_us = now_us
        self._reached = reached
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="relay-kafka")
        self._failures = 0
        self.phase = Phase.STANDING_BY
        self.steps = 0
        self.announced = 0

    def waiting(self) -> bool:
        """Return whether there is work, for the watchdog."""
        return self.phase in {Phase.CATCHING_UP, Phase.ANNOUNCING}

    async def run(self, stop: asyncio.Event) -> int:
        """Publish as the leader, or be on standby, until `stop` is set; returns the exit code."""
        counting = asyncio.create_task(self._count(), name="outbox backlog")
        try:
            async with self._outbox.listen() as listener:
                while not stop.is_set():
                    code = await self._term(listener, stop)
                    if code is not None:
                        return code
            return Exit.OK
        finally:
            counting.cancel()
            self._thread.shutdown(wait=False)

    async def _count(self) -> None:
        """Measure the backlog periodically; a large one takes long to count, so it is counted less often."""
        while True:
            began_s = time.monotonic()
            try:
                relay_pending_rows.set(await self._outbox.unpublished())
            except HeadraceError as error:
                # The publishing loop handles an outage of PostgreSQL; a stale gauge is no reason to end.
                get_log().debug(Action.RETRYING, service="postgres", why=error.what)
            took_s = time.monotonic() - began_s
            await asyncio.sleep(max(COUNT_EVERY_S, took_s / COUNT_SHARE_MAX))

    async def _term(self, listener: OutboxListener, stop: asyncio.Event) -> int | None:
        """Wait for the leader lock, then publish until it is lost or a fault occurs.

        Returns the exit code, or None to wait for the lock again.
        """
        self.phase = Phase.STANDING_BY
        get_log().info(Action.STANDING_BY)
        leader_lock = await _unless(stop, self._outbox.wait_for_leader_lock())
        if leader_lock is None:
            return Exit.OK
        publisher = OutboxPublisher(self._settings, self._reached)
        try:
            await self._lead(publisher, leader_lock, listener, stop)
        except FencedError as fenced:
            get_log().warning(Action.LEADERSHIP_LOST, why=str(fenced))
            return Exit.TRANSIENT
        except (ProducerResetError, CatalogUnavailableError) as fault:
            self.phase = Phase.STANDING_BY
            self._failures += 1
            relay_restarts_total.inc()
            if self._failures > FAILURES_IN_A_ROW_MAX:
                get_log().error(Action.HALTED, why=str(fault), failures=self._failures)
                return Exit.TRANSIENT
            again_in_s = self._delay_s()
            get_log().warning(Action.RETRYING, why=str(fault).splitlines()[0], again_in_s=again_in_s)
            await self._blocking(publisher.close)
            await leader_lock.release()
            await _unless(stop, asyncio.sleep(again_in_s))
            return None
        finally:
            relay_leading.set(0)
            await self._blocking(publisher.close)
            await leader_lock.release()
        return Exit.OK

    async def _lead(
        self, publisher: OutboxPublisher, leader_lock: LeaderLock, listener: OutboxListener, stop: asyncio.Event
    ) -> None:
        self._enter(Phase.CATCHING_UP)
        relay_leading.set(1)
        await self._blocking(publisher.open)
        await self._catch_up(leader_lock, stop)
        get_log().info(Action.LEADING)
        while not stop.is_set():
            if leader_lock.lost.is_set():
                raise ProducerResetError("the leader lock was lost with its connection to PostgreSQL")
            listener.notified.clear()
            rows_max, bytes_max = transaction_limits(self._settings.relay_rows_max, self._failures)
            rows = await self._outbox.pending(rows_max, bytes_max=bytes_max)
            if rows:
                await self._announce(publisher, rows)
            else:
                self._enter(Phase.IDLE)
                await _first(self._settings.relay_poll_s, listener.notified, leader_lock.lost, stop)

    async def _catch_up(self, leader_lock: LeaderLock, stop: asyncio.Event) -> None:
        """Mark every row that is published already."""
        published, marked = PublishedOffsets(self._settings), 0
        try:
            checkpoints = await self._outbox.checkpoints()
            await self._blocking(published.open, checkpoints)
            while (events := await self._blocking(published.read)) is not None:
                if leader_lock.lost.is_set() or stop.is_set():
                    raise ProducerResetError("interrupted while reading what is published")
                if events.event_ids:
                    count = await self._outbox.mark_seen(events.event_ids)
                    if checkpoints and count < len(events.event_ids):
                        await self._require_known(events.event_ids)
                    marked += count
                if events.next_offsets:
                    await self._outbox.mark([], events.next_offsets)
                self._enter(Phase.CATCHING_UP)
        finally:
            await self._blocking(published.close)
        get_log().info(Action.CAUGHT_UP, found=marked)

    async def _require_known(self, event_ids: list[UUID]) -> None:
        """Announcements that the catalog does not know, and would repeat, come from a newer one."""
        unknown = await self._outbox.unknown(event_ids)
        if unknown:
            raise CatalogRevertedError(
                f"{len(unknown)} announcements are on their topics that it does not know",
                where=address(self._settings.postgres_dsn.get_secret_value()),
            )

    async def _announce(self, publisher: OutboxPublisher, rows: list[Pending]) -> None:
        self._enter(Phase.ANNOUNCING)
        batch = announce_each(rows)
        await self._skip(batch.skipped)
        if batch.rows:
            self._reached(CrashPoint.RELAY_BEFORE_SEND)
            checkpoints = await self._blocking(lambda: publisher.announce(batch.messages))
            self._reached(CrashPoint.RELAY_BEFORE_MARK)
            await self._outbox.mark([row.outbox_id for row in batch.rows], checkpoints)
            self._reached(CrashPoint.RELAY_AFTER_MARK)
        self._failures = 0
        self.announced += len(batch.rows)
        self._enter(Phase.ANNOUNCING)
        self._measure(batch.rows)

    async def _skip(self, rows: list[tuple[Pending, str]]) -> None:
        """Mark and log rows that cannot be announced: unmarked they would be read again for ever."""
        for row, why in rows:
            relay_passed_over_total.labels(row.topic).inc()
            get_log().error(
                Action.PASSED_OVER,
                outbox_id=row.outbox_id,
                event_id=str(row.event_id),
                topic=row.topic,
                why=why,
                hint="repair the catalog, then set the row's published_at to null to have it announced",
            )
        if rows:
            await self._outbox.mark([row.outbox_id for row, _ in rows])

    def _measure(self, rows: list[Pending]) -> None:
        now_us = self._now_us()
        for row in rows:
            relay_announced_total.labels(row.topic).inc()
            assert row.event is not None
            since_us = row.event.ingested_at_us if isinstance(row.event, Ingested) else row.event.rejected_at_us
            relay_delay_seconds.observe(max(0, now_us - since_us) / 1_000_000)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self.steps += 1

    def _delay_s(self) -> float:
        return Backoff(self._settings.retry_delay_s, self._settings.retry_delay_s_max).delay_s(self._failures)

    async def _blocking(self, call: Callable[..., T], *values: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *values)


async def _unless(stop: asyncio.Event, work: Awaitable[T]) -> T | None:
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


async def _first(seconds: float, *events: asyncio.Event) -> None:
    """Wait until one of the events is set, or for so many seconds."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
