"""`headrace topics rebuild`: publish the announcements that a topic lacks, from the catalog.

It is for a Kafka that was lost, and for announcements that are past their retention. What it publishes has the key, the
event id and the headers that it had, in the order of the first time. What the topic has already is left alone, so it
may be repeated, and ended at any time.

No relay publishes meanwhile: a rebuild holds REBUILD_LOCK, for which a relay gives up the leader lock, and then holds
that too. It uses the transactional id of the topic's relay, so one that lost its lock unnoticed is fenced. The topic is
read to its end after that, and its checkpoints move as a relay's would.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from uuid import UUID

from headrace.runtime import crash_points
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import Topic, ingested_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.announcements import Announced, Announcements
from headrace.store.catalog.outbox import Outbox, Pending
from headrace.store.catalog.sessions import LeaderLock, try_leader_lock
from headrace.store.errors import CatalogUnavailableError, address
from headrace.store.installation import require_installation
from headrace.store.locks import LEADER_LOCK, REBUILD_LOCK
from headrace.streams.relay.announcement import announce_each
from headrace.streams.relay.outbox_publisher import OutboxPublisher
from headrace.streams.relay.published_offsets import PublishedOffsets
from headrace.streams.transaction_errors import FencedError, ProducerResetError, TopicRefusedError

LEAD_S_MAX = 60.0  # a relay ends its transaction first
_RETRY_S = 0.5
_TOPICS = {ingested_topic(kind).name: kind for kind in Kind}


@dataclass
class RebuildResult:
    """How many announcements the topic had and lacked, and how many of these are published.

    `refused` maps records to the reason why they cannot be announced.
    """

    topic: str
    present: int = 0
    lacking: int = 0
    published: int = 0
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RebuildRequest:
    """A topic, and the ingestion times between which announcements are restored, the last excluded."""

    topic: str
    since_us: int = 0
    until_us: int | None = None

    @property
    def kind(self) -> Kind:
        """The kind that the topic announces.

        Raises:
            HeadraceError: it announces none.
        """
        if self.topic not in _TOPICS:
            raise HeadraceError(
                "topic_unknown",
                f"{self.topic} cannot be rebuilt",
                hint=f"one of: {', '.join(_TOPICS)}",
                exit_code=Exit.USAGE,
            )
        return _TOPICS[self.topic]


async def rebuild(
    settings: Settings,
    request: RebuildRequest,
    *,
    dry_run: bool = False,
    progress: Callable[[RebuildResult], None] = lambda _result: None,
    reached: Reached = crash_points.reached,
) -> RebuildResult:
    """Publish what a topic lacks; a dry run counts it. May be repeated, also after a kill.

    Raises:
        HeadraceError: another rebuild is running, a relay does not give up its lead, Kafka, catalog and store do not
            belong together, or a service is unreachable.
    """
    topic = ingested_topic(request.kind)
    dsn = settings.postgres_dsn.get_secret_value()
    await require_installation(settings, Blobs.from_settings(settings))
    outbox = await Outbox.open(dsn, statement_s_max=settings.postgres_statement_s_max)
    try:
        async with Announcements.open(dsn, "headrace rebuild") as announcements:
            job = _Job(settings, request, topic, outbox, announcements)
            if dry_run:
                return await job.run(None, progress)
            async with _alone(dsn, outbox) as lock:
                publisher = OutboxPublisher(settings, topic, reached)
                try:
                    await asyncio.to_thread(publisher.open)
                    return await job.run(_Publishing(outbox, publisher, lock, reached), progress)
                finally:
                    await asyncio.to_thread(publisher.close)
    except (ProducerResetError, FencedError) as error:
        code = "topic_refused" if isinstance(error, TopicRefusedError) else "kafka_unreachable"
        hint = "run the command again: it publishes what is still missing"
        raise HeadraceError(
            code, str(error), where=settings.kafka_bootstrap, hint=hint, exit_code=Exit.UNREACHABLE
        ) from None
    finally:
        await outbox.close()


@asynccontextmanager
async def _alone(dsn: str, outbox: Outbox) -> AsyncIterator[LeaderLock]:
    """Have the relays give up the lead, and keep it from them."""
    rebuilding = await try_leader_lock(dsn, REBUILD_LOCK)
    if rebuilding is None:
        raise HeadraceError("rebuild_running", "another rebuild is running", hint="wait until it has ended")
    try:
        deadline_s = time.monotonic() + LEAD_S_MAX
        while (leading := await try_leader_lock(dsn, LEADER_LOCK)) is None:
            if time.monotonic() > deadline_s:
                raise HeadraceError(
                    "service_running",
                    f"a relay did not give up its lead within {LEAD_S_MAX:.0f} s",
                    hint="stop the relays, or upgrade them, and run it again",
                )
            await outbox.call_relays()
            await asyncio.sleep(_RETRY_S)
        try:
            yield leading
        finally:
            await leading.release()
    finally:
        await rebuilding.release()


@dataclass(frozen=True, slots=True)
class _Publishing:
    """What a run publishes with, and the lock that it must not lose."""

    outbox: Outbox
    publisher: OutboxPublisher
    lock: LeaderLock
    reached: Reached


class _Job:
    """One rebuild."""

    def __init__(
        self, settings: Settings, request: RebuildRequest, topic: Topic, outbox: Outbox, announcements: Announcements
    ) -> None:
        self._settings = settings
        self._request = request
        self._topic = topic
        self._outbox = outbox
        self._announcements = announcements
        self._result = RebuildResult(topic.name)

    async def run(self, publishing: _Publishing | None, progress: Callable[[RebuildResult], None]) -> RebuildResult:
        """Compare the catalog with the topic, and publish what it lacks; without `publishing`, count it."""
        request, result = self._request, self._result
        present = await self._present(is_marked=publishing is not None)
        until_us = request.until_us or await self._announcements.now_us()
        windows = self._announcements.windows(request.kind, since_us=request.since_us, until_us=until_us)
        async with aclosing(windows) as lists:
            async for announced in lists:
                lacking = [item for item in announced if UUID(item.event.event_id).bytes not in present]
                result.present += len(announced) - len(lacking)
                result.lacking += len(lacking)
                if publishing is not None:
                    await self._publish(publishing, lacking)
                progress(result)
        return result

    async def _present(self, *, is_marked: bool) -> set[bytes]:
        """Return the ids of the events on the topic, 16 bytes each; mark those that no relay has marked."""
        present: set[bytes] = set()
        published = PublishedOffsets(self._settings, [self._topic.name])
        try:
            await asyncio.to_thread(published.open, {})
            while (events := await asyncio.to_thread(published.read)) is not None:
                present |= {event_id.bytes for event_id in events.event_ids}
                if is_marked and events.event_ids:
                    await self._outbox.mark_seen(self._topic.name, events.event_ids)
            if is_marked:
                await self._outbox.mark([], published.next_offsets)
        finally:
            await asyncio.to_thread(published.close)
        return present

    async def _publish(self, publishing: _Publishing, lacking: list[Announced]) -> None:
        rows = iter([self._row(item) for item in lacking])
        while chunk := list(islice(rows, self._settings.relay_rows_max)):
            if publishing.lock.lost.is_set():
                where = address(self._settings.postgres_dsn.get_secret_value())
                raise CatalogUnavailableError("the leader lock was lost with its connection", where=where)
            batch = announce_each(chunk, lambda _row: publishing.publisher.bytes_max)
            self._result.refused |= {str(row.event_id): why for row, why in batch.skipped}
            publishing.reached(CrashPoint.RELAY_BEFORE_SEND)
            checkpoints = await asyncio.to_thread(publishing.publisher.announce, batch.messages)
            publishing.reached(CrashPoint.RELAY_BEFORE_MARK)
            await self._outbox.mark([], checkpoints)
            publishing.reached(CrashPoint.RELAY_AFTER_MARK)
            self._result.published += len(batch.messages)

    def _row(self, item: Announced) -> Pending:
        return Pending(0, UUID(item.event.event_id), self._topic.name, item.event, item.traceparent)
