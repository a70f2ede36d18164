"""The tail of a gateway, shared by all streams: it buffers the newest announcements and state changes of requests."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from confluent_kafka import KafkaException

from headrace.gateway.live.announcements import AnnouncementReader, Backfill, partition_bounds, read_backfill
from headrace.gateway.live.event_buffer import EventBuffer, state_change_event
from headrace.gateway.live.resume_token import REQUESTS, ResumeToken
from headrace.runtime.errors import HeadraceError, unreachable
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.schemas.topics import PartitionKey
from headrace.store.requests.ingest_requests import IngestRequests, StateEvent

T = TypeVar("T")

HISTORY_EVENTS = 500  # of each partition, read when a gateway starts
READY_S_MAX = 10.0
STATE_CHANGES_MAX = 500  # of one query
NEW_PARTITIONS_EVERY_S = 60.0
BACKFILL_THREADS = 2
_STATE_CHANGES_EVERY_S = 0.3
_RETRY_S = 1.0


class TopicTail:
    """Fills the event buffer; all of its state belongs to the event loop."""

    def __init__(self, settings: Settings, requests: IngestRequests) -> None:
        """Prepare; `start` follows."""
        self._settings = settings
        self._requests = requests
        self._stop = threading.Event()
        # For librdkafka's blocking calls: backfills have threads of their own, so that they do not delay live events.
        self._tail_thread = ThreadPoolExecutor(1, thread_name_prefix="live-tail")
        self._backfill_threads = ThreadPoolExecutor(BACKFILL_THREADS, thread_name_prefix="live-backfill")
        self._tasks: list[asyncio.Task[None]] = []
        self._new_events = asyncio.Event()
        self._ready = asyncio.Event()
        self._start_offsets: dict[PartitionKey, int] = {}  # the end of each partition when the tail started
        self.buffer = EventBuffer()

    def start(self) -> None:
        """Start to follow; Kafka may still be unavailable."""
        self._tasks = [
            asyncio.create_task(self._retry_forever("kafka", self._follow_announcements)),
            asyncio.create_task(self._retry_forever("postgres", self._follow_state_changes)),
        ]

    async def stop(self) -> None:
        """Stop following."""
        self._stop.set()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tail_thread.shutdown(wait=False)
        self._backfill_threads.shutdown(wait=False, cancel_futures=True)

    async def latest(self) -> ResumeToken:
        """Return the position after the newest event.

        Raises:
            HeadraceError: Kafka or the catalog does not answer.
        """
        await self._wait_ready()
        # While the tail still reads its history, the newest event is at the end of the history.
        return ResumeToken(
            {key: max(offset, self._start_offsets.get(key, 0)) for key, offset in self.buffer.next_offsets.items()}
        )

    async def ends_before(self, position: ResumeToken) -> dict[PartitionKey, int]:
        """Return the end of each partition that ends before a position.

        The position then is of another Kafka or catalog, or of this one before it was recreated.

        Raises:
            HeadraceError: Kafka or the catalog does not answer.
        """
        await self._wait_ready()
        beyond = [key for key, offset in self.buffer.next_offsets.items() if position[key] > offset]
        ends = {REQUESTS: await self._requests.newest_event() + 1} if REQUESTS in beyond else {}
        partitions = [key for key in beyond if key != REQUESTS]
        if partitions:
            bounds = await self._run(self._backfill_threads, lambda: partition_bounds(self._settings, partitions))
            ends |= {key: high for key, (_, high) in bounds.items()}
        return {key: end for key, end in ends.items() if position[key] > end}

    async def wait_new_events(self, wait_s_max: float) -> None:
        """Wait until the buffer has new events, at most so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s_max):
                await self._new_events.wait()

    async def backfill(self, missing: Mapping[PartitionKey, tuple[int, int]]) -> Backfill:
        """Read announcements that the buffer no longer has.

        Raises:
            HeadraceError: Kafka does not answer.
        """
        return await self._run(self._backfill_threads, lambda: read_backfill(self._settings, missing, self._stop))

    async def state_changes(self, begin: int) -> list[StateEvent]:
        """Return the state changes of requests from this one on, at most STATE_CHANGES_MAX.

        Raises:
            HeadraceError: the catalog does not answer or refuses the query.
        """
        return await self._requests.events_after(begin - 1, STATE_CHANGES_MAX)

    async def _wait_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_S_MAX):
                await self._ready.wait()
        except TimeoutError:
            raise unreachable(
                "kafka", self._settings.kafka_bootstrap, "the gateway has not read its events yet", "try again"
            ) from None

    async def _retry_forever(self, service: str, follow: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await follow()
            except HeadraceError as error:
                get_log().warning(Action.RETRYING, service=service, why=str(error))
            except KafkaException as error:
                get_log().warning(Action.RETRYING, service=service, why=error.args[0].str())
            except Exception as error:  # noqa: BLE001 - an unexpected error must not stop all streams
                get_log().error(Action.HANDLER_FAILED, why=type(error).__name__, exc_info=error)
            await asyncio.sleep(_RETRY_S)

    async def _follow_announcements(self) -> None:
        """Follow the announcements from the buffer's end on."""
        reader = await self._run(self._tail_thread, lambda: AnnouncementReader(self._settings))
        try:
            await self._open(reader)
            partitions_due_s = asyncio.get_running_loop().time() + NEW_PARTITIONS_EVERY_S
            while True:
                polled = await self._run(self._tail_thread, reader.poll)
                for key, offset, event in polled:
                    if event is None:
                        self.buffer.skip_to(key, offset + 1)
                    else:
                        self.buffer.add(event)
                if polled:
                    self._notify()
                if asyncio.get_running_loop().time() > partitions_due_s:
                    partitions_due_s += NEW_PARTITIONS_EVERY_S
                    await self._add_partitions(reader)
        finally:
            # After the thread's current call, which a cancelled wait does not end.
            self._tail_thread.submit(reader.close)

    async def _open(self, reader: AnnouncementReader) -> None:
        bounds = await self._run(self._tail_thread, reader.bounds)
        self.buffer.add_partitions({key: max(low, high - HISTORY_EVENTS) for key, (low, high) in bounds.items()})
        self._start_offsets = {key: high for key, (_, high) in bounds.items()} | self._start_offsets
        offsets = {key: self.buffer.next_offsets[key] for key in bounds}
        await self._run(self._tail_thread, lambda: reader.follow(offsets))
        self._set_ready()

    async def _add_partitions(self, reader: AnnouncementReader) -> None:
        partitions = await self._run(self._tail_thread, reader.partitions)
        if not self.buffer.next_offsets.keys() >= set(partitions):
            self.buffer.add_partitions(dict.fromkeys(partitions, 0))
            offsets = {key: self.buffer.next_offsets[key] for key in partitions}
            await self._run(self._tail_thread, lambda: reader.follow(offsets))

    async def _follow_state_changes(self) -> None:
        """Follow the state changes of requests from the buffer's end on."""
        if REQUESTS not in self.buffer.next_offsets:
            self.buffer.add_partitions({REQUESTS: await self._requests.newest_event() + 1})
            self._set_ready()
        while True:
            changes = await self.state_changes(self.buffer.next_offsets[REQUESTS])
            for change in changes:
                self.buffer.add(state_change_event(change))
            if changes:
                self._notify()
            if len(changes) < STATE_CHANGES_MAX:
                await asyncio.sleep(_STATE_CHANGES_EVERY_S)

    def _notify(self) -> None:
        self._new_events.set()
        self._new_events = asyncio.Event()

    def _set_ready(self) -> None:
        if REQUESTS in self.buffer.next_offsets and len(self.buffer.next_offsets) > 1:
            self._ready.set()

    async def _run(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, call)
