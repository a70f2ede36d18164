"""Compares the group's offsets, the topics and the catalog before anything of an assignment is ingested.

A catalog that is older than the group's offsets ends the process: ingesting into it would lose what lies between. What
retention deleted before it was ingested is recorded as lost, here and when it happens while the worker reads. A topic
that was made anew is read from its start; one that is made anew while it is read ends the process, which begins again.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar, assert_never

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from faust.types import TP

from headrace.runtime import metrics
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import client_config, topic_ids
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import offset_bounds, reading_consumer
from headrace.schemas.topics import PartitionKey
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.ingest_progress import CatalogPosition
from headrace.store.errors import CatalogRevertedError, address
from headrace.streams.core.input_position import CatalogBehind, Continues, InputPosition, judge
from headrace.streams.worker.retry import HaltError, Retry

KAFKA_RETRY_S = 0.5
_REQUEST_S = 10.0
_MARKERS_S_MAX = 5.0

T = TypeVar("T")


class InputCheck:
    """The checks of one worker. `halt` ends the process and does not return."""

    def __init__(
        self, settings: Settings, group: str, catalog: Catalog, retry: Retry, halt: Callable[[int, str], None]
    ) -> None:
        self._settings = settings
        self._group = group
        self._catalog = catalog
        self._progress = catalog.ingest_progress()
        self._retry = retry
        self._halt = halt
        self._admin = AdminClient(client_config(settings))
        self._topic_ids: dict[str, str] = {}
        self._starts: dict[PartitionKey, int] = {}  # of the partitions when they were assigned

    def on_look(self) -> None:
        """End the process if a topic that it reads was made anew; called again and again, from another thread.

        Raises:
            KafkaException: Kafka does not answer.
        """
        before = dict(self._topic_ids)
        now = topic_ids(self._admin, before)
        for topic, topic_id in before.items():
            if now.get(topic, topic_id) != topic_id:
                self._halt(
                    Exit.TRANSIENT,
                    f"the topic {topic} was deleted and made anew while it was read; "
                    "start the worker again, and it reads the new topic from its start",
                )

    async def on_assigned(self, assigned: Iterable[TP]) -> frozenset[TP]:
        """Check an assignment; return the partitions whose committed offset is void, and which are read from the start.

        Ends the process if the catalog is older than the group's offsets.
        """
        keys = sorted((tp.topic, tp.partition) for tp in assigned)
        try:
            return frozenset([TP(*key) for key in keys and await self._check(keys)])
        except HaltError as error:
            self._halt(error.exit_code, str(error))
        except HeadraceError as error:
            code = error.exit_code if error.exit_code == Exit.REVERTED else Exit.BROKEN
            self._halt(code, str(error))
        return frozenset()

    async def on_deleted(self, tp: TP, start: int, end: int) -> None:
        """Record that retention deleted offsets from `start` to below `end` before they were read.

        Those below the offset at which the partition goes on were dealt with when it was assigned.
        """
        key = tp.topic, tp.partition
        await self._note_lost(key, range(max(start, self._starts.get(key, 0)), end))

    def on_markers(self, loop: asyncio.AbstractEventLoop, key: PartitionKey, end: int) -> bool:
        """Record, from another thread, that no message lies below `end`; return whether that succeeded.

        Otherwise retention would later delete transaction markers that count as messages.
        """
        future = asyncio.run_coroutine_threadsafe(self._progress.advance({key: end}), loop)
        try:
            future.result(_MARKERS_S_MAX)
        except (HeadraceError, FutureTimeout):
            return False
        return True

    async def _check(self, keys: list[PartitionKey]) -> list[PartitionKey]:
        # In this order, because the worker that had a partition before may still move it on.
        committed = await self._kafka(self._committed, keys)
        catalog = await self._retry(lambda: self._progress.positions(keys))
        ids = await self._kafka(self._ids, keys)
        bounds = await self._kafka(self._bounds, keys)
        restarted = []
        for key in keys:
            anew = catalog[key].topic_id not in {None, ids.get(key[0])}
            verdict = judge(position_of(committed[key], catalog[key], bounds[key], anew=anew))
            match verdict:
                case CatalogBehind():
                    raise _reverted(key, verdict, self._settings)
                case Continues():
                    self._starts[key] = verdict.next_offset
                    await self._settle(key, verdict, catalog[key])
                case _:
                    assert_never(verdict)
            if verdict.restarted:
                restarted.append(key)
            await self._identify(key, ids.get(key[0]), catalog[key])
        self._topic_ids = ids
        return restarted

    async def _identify(self, key: PartitionKey, topic_id: str | None, catalog: CatalogPosition) -> None:
        if topic_id is not None and topic_id != catalog.topic_id:
            await self._retry(lambda: self._progress.identify(key, topic_id))

    async def _settle(self, key: PartitionKey, verdict: Continues, catalog: CatalogPosition) -> None:
        await self._note_lost(key, verdict.lost)
        if verdict.restarted:
            get_log().warning(Action.TOPIC_RESTARTED, topic=key[0], partition=key[1], before=catalog.next_offset)
            self._catalog.forget_progress(key)
            await self._retry(lambda: self._progress.restart(key, verdict.next_offset))
        elif verdict.next_offset != catalog.next_offset:
            await self._retry(lambda: self._progress.advance({key: verdict.next_offset}))

    async def _note_lost(self, key: PartitionKey, lost: range) -> None:
        if not lost:
            return
        count = await self._retry(lambda: self._progress.note_lost(key, lost))
        metrics.worker_lost_messages_total.labels(key[0]).inc(count)
        get_log().error(
            Action.LOST,
            topic=key[0],
            partition=key[1],
            first_offset=lost.start,
            last_offset=lost.stop - 1,
            why="retention deleted messages before they were ingested",
            hint="`headrace lost` lists all of them; docs/runbook.md says what to do",
        )

    async def _kafka(self, ask: Callable[[list[PartitionKey]], T], keys: list[PartitionKey]) -> T:
        deadline_s = time.monotonic() + self._settings.processing_deadline_s
        while True:
            try:
                return await asyncio.to_thread(ask, keys)
            except (HeadraceError, KafkaException) as error:
                if time.monotonic() > deadline_s:
                    raise HaltError(Exit.TRANSIENT, f"Kafka did not report the group's offsets: {error}") from error
                await asyncio.sleep(KAFKA_RETRY_S)

    def _committed(self, keys: list[PartitionKey]) -> dict[PartitionKey, int | None]:
        with reading_consumer(self._settings, self._group) as consumer:
            committed = consumer.committed([TopicPartition(*key) for key in keys], timeout=_REQUEST_S)
        for partition in committed:
            if partition.error is not None:
                raise KafkaException(partition.error)
        # It is negative where the group has committed nothing.
        return {(at.topic, at.partition): at.offset if at.offset >= 0 else None for at in committed}

    def _ids(self, keys: list[PartitionKey]) -> dict[str, str]:
        return topic_ids(self._admin, {topic for topic, _ in keys})

    def _bounds(self, keys: list[PartitionKey]) -> dict[PartitionKey, tuple[int, int]]:
        with reading_consumer(self._settings, self._group, isolation_level="read_uncommitted") as consumer:
            return offset_bounds(consumer, keys)


def position_of(
    committed: int | None, catalog: CatalogPosition, bounds: tuple[int, int], *, anew: bool = False
) -> InputPosition:
    """Return a partition's position, from what the group committed, what the catalog has, and its bounds."""
    low, end = bounds
    return InputPosition(
        low=low,
        end=end,
        committed=committed,
        next_offset=catalog.next_offset,
        seen_until=catalog.seen_until,
        anew=anew,
    )


def _reverted(key: PartitionKey, behind: CatalogBehind, settings: Settings) -> CatalogRevertedError:
    topic, partition = key
    return CatalogRevertedError(
        f"it has {topic} [{partition}] to offset {behind.next_offset}, and the group committed {behind.committed}",
        where=address(settings.postgres_dsn.get_secret_value()),
    )
