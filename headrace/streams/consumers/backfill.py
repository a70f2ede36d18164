"""Deliver what was announced before a consumer group existed, from the catalog, up to where its topics begin.

The point is chosen once. It is the relay's checkpoint of each partition: what was marked as published before that was
read comes from the catalog, everything else from the topic; `headrace/store/catalog/announcements.py` has the
argument. An announcement that a relay had marked while its checkpoint was still before it is found by reading from the
checkpoint to the end of that moment, and is left to the topic.

Everything that has to survive is in the group's own offsets, so that it changes in one step with them: each partition
is committed at the point, with a note of what is left to deliver and how far its share of the sources is. The last
commit has no notes, and the group is one like any other. One process backfills, under a lock of the catalog, while the
group has no members; the others wait for it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self
from zlib import crc32

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.runtime.background_task import first
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config, kafka_failed
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, headers_of, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.events import Kind
from headrace.schemas.topics import PartitionKey, ingested_topic
from headrace.store.catalog.announcements import Announced, Announcements, Order
from headrace.store.catalog.sessions import LeaderLock, try_leader_lock
from headrace.store.errors import CatalogUnavailableError, address
from headrace.store.locks import backfill_lock
from headrace.streams.consumers.group_consumer import PolledBatch, PolledEvent
from headrace.streams.consumers.retrying_handler import RetryingHandler

_REQUEST_S = 10.0
_RETRY_S = 1.0
_VERSION = 1
_EVENT_ID = "ce_id"


@dataclass(frozen=True, slots=True)
class Note:
    """What is left to deliver of a partition's share of the sources.

    Announcements of records that were ingested from `since_us` on and published before `until_us`, behind `after`. What
    is found on the partition between its offset and `end` is left out.
    """

    since_us: int
    until_us: int
    end: int
    after: Order | None = None

    def as_text(self) -> str:
        """Return the note as the metadata of an offset."""
        return orjson.dumps(
            {"backfill": _VERSION, "from": self.since_us, "until": self.until_us, "end": self.end, "after": self.after}
        ).decode()

    @classmethod
    def of(cls, text: str | None) -> Self | None:
        """Return the note in the metadata of an offset; None where it has none."""
        try:
            fields = orjson.loads(text or "null")
        except orjson.JSONDecodeError:
            return None  # the metadata of another tool
        if not isinstance(fields, dict) or fields.get("backfill") != _VERSION:
            return None
        after = fields["after"]
        return cls(fields["from"], fields["until"], fields["end"], None if after is None else _order(after))


@dataclass(frozen=True, slots=True)
class Backfill:
    """A group, the kinds that it consumes, and the ingestion time from which on."""

    group: str
    kinds: Sequence[Kind]
    since_us: int


async def backfill(settings: Settings, wanted: Backfill, handler: RetryingHandler, stop: asyncio.Event) -> None:
    """Deliver what a new group missed, or go on with it; return at once where the group has offsets of its own.

    A process that is ended loses at most what was being handled then: that is delivered again.

    Raises:
        HeadraceError: the group has members that did not begin so, or a service is unreachable.
        Exception: what a handler raised at its deadline.
    """
    dsn = settings.postgres_dsn.get_secret_value()
    async with _locked(dsn, wanted.group, stop) as lock, Announcements.open(dsn, "headrace backfill") as announcements:
        if lock is None:
            return
        offsets = GroupOffsets(settings, wanted.group)
        try:
            for kind in wanted.kinds:
                job = BackfillJob(settings, kind, offsets, announcements, handler)
                await job.run(wanted.since_us, lock, stop)
        finally:
            await asyncio.to_thread(offsets.close)


@asynccontextmanager
async def _locked(dsn: str, group: str, stop: asyncio.Event) -> AsyncIterator[LeaderLock | None]:
    """Wait for the lock of a group's backfill; None if `stop` is set first."""
    lock = None
    while not stop.is_set() and (lock := await try_leader_lock(dsn, backfill_lock(group))) is None:
        await first(_RETRY_S, stop)
    try:
        yield lock
    finally:
        if lock is not None:
            await lock.release()


class GroupOffsets:
    """A group's offsets and their notes, as somebody who is no member sees and sets them. Every call blocks."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._settings = settings
        self._group = group
        self._consumer = Consumer(
            client_config(settings, group_id=group, enable_auto_commit=False, isolation_level="read_uncommitted")
        )

    def read(self, topic: str) -> tuple[dict[PartitionKey, Note | None], dict[PartitionKey, int]]:
        """Return the notes of a topic's partitions, None where there is none, and the offsets that are committed.

        Raises:
            HeadraceError: Kafka does not answer.
        """
        with self._faults():
            keys = partitions_of(self._consumer, topic)
            committed = self._consumer.committed([TopicPartition(*key) for key in keys], timeout=_REQUEST_S)
        for place in committed:
            if place.error is not None:
                raise kafka_failed(self._settings, place.error)
        notes = {(place.topic, place.partition): Note.of(place.metadata) for place in committed}
        return notes, {(place.topic, place.partition): place.offset for place in committed if place.offset >= 0}

    def bounds(self, keys: Iterable[PartitionKey]) -> dict[PartitionKey, tuple[int, int]]:
        """Return the first offset of each partition, and its end, also behind transactions that are open."""
        with self._faults():
            return offset_bounds(self._consumer, keys)

    def commit(self, offsets: Mapping[PartitionKey, int], notes: Mapping[PartitionKey, Note | None]) -> None:
        """Commit offsets with their notes, in one step.

        Raises:
            HeadraceError: Kafka does not answer, or the group has members.
        """
        places = [
            TopicPartition(*key, offset, note.as_text() if (note := notes.get(key)) else "")
            for key, offset in offsets.items()
        ]
        with self._faults():
            answers = self._consumer.commit(offsets=places, asynchronous=False) or ()
            failed = [place.error for place in answers if place.error is not None]
            if failed:
                raise KafkaException(failed[0])

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            fault: KafkaError = error.args[0]
            if fault.code() in {KafkaError.UNKNOWN_MEMBER_ID, KafkaError.ILLEGAL_GENERATION}:
                raise HeadraceError(
                    "group_active",
                    f"the group {self._group} has members, so that what it missed cannot be delivered",
                    hint="stop them, or choose a new group",
                ) from None
            raise kafka_failed(self._settings, fault) from None


class BackfillJob:
    """The backfill of one topic."""

    def __init__(
        self,
        settings: Settings,
        kind: Kind,
        offsets: GroupOffsets,
        announcements: Announcements,
        handler: RetryingHandler,
    ) -> None:
        self._settings = settings
        self._kind = kind
        self._topic = ingested_topic(kind).name
        self._offsets = offsets
        self._announcements = announcements
        self._handler = handler
        self._notes: dict[PartitionKey, Note] = {}
        self._point: dict[PartitionKey, int] = {}

    async def run(self, since_us: int, lock: LeaderLock, stop: asyncio.Event) -> None:
        """Begin or go on, until everything is delivered or `stop` is set; raises what `backfill` raises."""
        notes, committed = await asyncio.to_thread(self._offsets.read, self._topic)
        self._notes = {key: note for key, note in notes.items() if note is not None}
        if committed and not self._notes:
            return
        if committed:
            self._point = {key: committed[key] for key in self._notes}
        else:
            await self._begin(since_us, list(notes))
        get_log().info(Action.STARTED, topic=self._topic, task="backfill")
        left_to_the_topic = await asyncio.to_thread(self._on_the_topic)
        async with aclosing(self._windows()) as windows:
            async for window in windows:
                pending = self._pending(window, left_to_the_topic)
                while any(pending.values()):
                    if stop.is_set():
                        return
                    if lock.lost.is_set():
                        where = address(self._settings.postgres_dsn.get_secret_value())
                        raise CatalogUnavailableError("the connection was lost", where=where)
                    await self._deliver(pending)
        reached(CrashPoint.BACKFILL_BEFORE_END)
        await asyncio.to_thread(self._offsets.commit, self._point, {})
        reached(CrashPoint.BACKFILL_AFTER_END)

    async def _begin(self, since_us: int, keys: list[PartitionKey]) -> None:
        point = await self._announcements.point(self._topic)
        bounds = await asyncio.to_thread(self._offsets.bounds, keys)
        self._notes = {key: Note(since_us, point.at_us, bounds[key][1]) for key in keys}
        self._point = {key: _within(point.checkpoints.get(key), *bounds[key]) for key in keys}
        await asyncio.to_thread(self._offsets.commit, self._point, self._notes)
        reached(CrashPoint.BACKFILL_AFTER_BEGIN)

    def _on_the_topic(self) -> frozenset[str]:
        """Return the ids of the events between the point and the end that the topic had then."""
        ranges = {key: (self._point[key], note.end) for key, note in self._notes.items()}
        with reading_consumer(self._settings, "headrace-backfill") as consumer:
            low = {key: bounds[0] for key, bounds in offset_bounds(consumer, ranges).items()}
            # What retention has deleted since is found nowhere; at worst it is delivered by the catalog.
            kept = {key: (max(begin, low[key]), end) for key, (begin, end) in ranges.items()}
            headers = [dict(headers_of(message) or []) for message in TopicReader(consumer, kept)]
        return frozenset([(pairs.get(_EVENT_ID) or b"").decode("ascii", "replace") for pairs in headers])

    def _windows(self) -> Any:
        notes = self._notes.values()
        first_us = min(note.since_us if note.after is None else max(note.since_us, note.after[0]) for note in notes)
        until_us = max(note.until_us for note in notes)
        return self._announcements.windows(
            self._kind, since_us=first_us, until_us=until_us, published_before_us=until_us
        )

    def _pending(self, window: list[Announced], left_out: frozenset[str]) -> dict[PartitionKey, list[Announced]]:
        """Return the announcements of a window that are still to be delivered, by the share that they belong to."""
        pending: dict[PartitionKey, list[Announced]] = {key: [] for key in self._notes}
        keys = sorted(self._notes)
        for item in window:
            key = keys[crc32(item.event.source_id.encode()) % len(keys)]
            after = self._notes[key].after
            if (after is None or item.order > after) and item.event.event_id not in left_out:
                pending[key].append(item)
        return pending

    async def _deliver(self, pending: dict[PartitionKey, list[Announced]]) -> None:
        """Have the next announcements handled, and note what is; removes them from `pending`."""
        share = max(1, self._settings.consumer_events_max // len(pending))
        batch = PolledBatch()
        for key, items in pending.items():
            if items:
                batch.events[key] = [
                    PolledEvent(item.event, item.traceparent, key, number, archived_at_us=item.archived_at_us)
                    for number, item in enumerate(items[:share])
                ]
                batch.next_offsets[key] = len(batch.events[key])
        handled = await self._handler.run(batch)
        done = {key: count for key, count in handled.next_offsets.items() if count}
        for key, count in done.items():
            self._notes[key] = replace(self._notes[key], after=pending[key][count - 1].order)
            del pending[key][:count]
        reached(CrashPoint.BACKFILL_BEFORE_SAVE)
        if done:
            await asyncio.to_thread(self._offsets.commit, {key: self._point[key] for key in done}, self._notes)
        reached(CrashPoint.BACKFILL_AFTER_SAVE)
        if handled.errors:
            raise handled.errors[0]


def _within(checkpoint: int | None, first: int, end: int) -> int:
    # A checkpoint can be before what retention left, or after the end of a topic that was created again.
    return first if checkpoint is None or not first <= checkpoint <= end else checkpoint


def _order(values: list[Any]) -> Order:
    time_us, topic, partition, offset, index, event = values
    return time_us, topic, partition, offset, index, event
