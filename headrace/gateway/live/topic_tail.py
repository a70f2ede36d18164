"""One tail for all streams of a gateway: it follows the announcements in Kafka and the changes of requests in the
catalog, and keeps the newest in a ring.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from confluent_kafka import KafkaException

from headrace.gateway.live.announcements import Reader, bounds_of
from headrace.gateway.live.backfill import BackfillPart, read_gap
from headrace.gateway.live.event_buffer import EventBuffer
from headrace.gateway.live.resume_token import REQUESTS, ResumeToken, TopicPartitionRef
from headrace.gateway.live.stream_event import of_change
from headrace.runtime.errors import HeadraceError, unreachable
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.store.requests.requests import IngestRequests, StateEvent

T = TypeVar("T")

HISTORY_EVENTS = 500  # of each partition, read when a gateway starts
READY_S_MAX = 10.0
CHANGES_AT_ONCE_MAX = 500
PARTITIONS_EVERY_S = 60.0  # how soon a partition that was added is followed
GAP_READERS_MAX = 2
_CHANGES_EVERY_S = 0.3
_AGAIN_S = 1.0


class TopicTail:
    """Fills the ring; all of its state belongs to the event loop."""

    def __init__(self, settings: Settings, requests: IngestRequests) -> None:
        """Follow nothing yet."""
        self._settings = settings
        self._requests = requests
        self._stop = threading.Event()
        # librdkafka's blocking calls: one thread follows, others read gaps, so that a gap delays nobody's live events.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="live-tail")
        self._gaps = ThreadPoolExecutor(GAP_READERS_MAX, thread_name_prefix="live-gap")
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()
        self._ready = asyncio.Event()
        self._ends: dict[TopicPartitionRef, int] = {}
        self.ring = EventBuffer()

    def start(self) -> None:
        """Begin to follow; Kafka may still be away."""
        self._tasks = [
            asyncio.create_task(self._forever("kafka", self._follow)),
            asyncio.create_task(self._forever("postgres", self._changes)),
        ]

    async def stop(self) -> None:
        """Follow no more."""
        self._stop.set()
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._thread.shutdown(wait=False)
        self._gaps.shutdown(wait=False, cancel_futures=True)

    async def now(self) -> ResumeToken:
        """Return the position of a stream that begins now.

        Raises:
            HeadraceError: Kafka or the catalog do not answer.
        """
        await self._until_ready()
        # While the tail still reads what was there before it, now is where that ends.
        return ResumeToken({place: max(offset, self._ends.get(place, 0)) for place, offset in self.ring.nexts.items()})

    async def ahead(self, position: ResumeToken) -> dict[TopicPartitionRef, int]:
        """Return the places where a position lies behind everything that there is, with where that ends.

        It was given by another Kafka or catalog, or by this one before it was made anew.

        Raises:
            HeadraceError: Kafka or the catalog do not answer.
        """
        await self._until_ready()
        beyond = [place for place, offset in self.ring.nexts.items() if position[place] > offset]
        ends = {REQUESTS: await self._requests.newest_event() + 1} if REQUESTS in beyond else {}
        places = [place for place in beyond if place != REQUESTS]
        if places:
            bounds = await self._in(self._gaps, lambda: bounds_of(self._settings, places))
            ends |= {place: high for place, (_, high) in bounds.items()}
        return {place: end for place, end in ends.items() if position[place] > end}

    async def news(self, wait_s_max: float) -> None:
        """Wait until something has come, or so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s_max):
                await self._news.wait()

    async def gap(self, missing: Mapping[TopicPartitionRef, tuple[int, int]]) -> BackfillPart:
        """Read announcements that the ring has no more.

        Raises:
            HeadraceError: Kafka does not answer.
        """
        return await self._in(self._gaps, lambda: read_gap(self._settings, missing, self._stop))

    async def changes(self, begin: int) -> list[StateEvent]:
        """Return changes of requests from this one on, at most CHANGES_AT_ONCE_MAX.

        Raises:
            CatalogUnavailable, CatalogRefused: the catalog does not answer.
        """
        return await self._requests.events_after(begin - 1, CHANGES_AT_ONCE_MAX)

    async def _until_ready(self) -> None:
        try:
            async with asyncio.timeout(READY_S_MAX):
                await self._ready.wait()
        except TimeoutError:
            raise unreachable("kafka", self._settings.kafka_bootstrap, "events are not read yet", "try again") from None

    async def _forever(self, service: str, follow: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await follow()
            except (HeadraceError, KafkaException) as error:
                get_log().warning(Action.RETRYING, service=service, why=str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is, the streams must not stand still for ever
                get_log().error(Action.HANDLER_FAILED, why=type(error).__name__, exc_info=error)
            await asyncio.sleep(_AGAIN_S)

    async def _follow(self) -> None:
        """Follow the announcements, from where that was left."""
        reader = await self._in(self._thread, lambda: Reader(self._settings))
        try:
            await self._open(reader)
            again_s = asyncio.get_running_loop().time() + PARTITIONS_EVERY_S
            while True:
                taken = await self._in(self._thread, reader.take)
                for place, offset, one in taken:
                    if one is None:
                        self.ring.pass_over(place, offset + 1)
                    else:
                        self.ring.add(one)
                if taken:
                    self._tell()
                if asyncio.get_running_loop().time() > again_s:
                    again_s += PARTITIONS_EVERY_S
                    await self._add_partitions(reader)
        finally:
            # Behind what the thread is at, which a cancelled wait does not end.
            self._thread.submit(reader.close)

    async def _open(self, reader: Reader) -> None:
        bounds = await self._in(self._thread, reader.bounds)
        self.ring.begin({place: max(low, high - HISTORY_EVENTS) for place, (low, high) in bounds.items()})
        self._ends = {place: high for place, (_, high) in bounds.items()} | self._ends
        nexts = {place: self.ring.nexts[place] for place in bounds}
        await self._in(self._thread, lambda: reader.follow(nexts))
        self._tell_if_ready()

    async def _add_partitions(self, reader: Reader) -> None:
        places = await self._in(self._thread, reader.places)
        if not self.ring.nexts.keys() >= set(places):
            self.ring.begin(dict.fromkeys(places, 0))
            nexts = {place: self.ring.nexts[place] for place in places}
            await self._in(self._thread, lambda: reader.follow(nexts))

    async def _changes(self) -> None:
        """Follow the changes of requests, from where that was left."""
        if REQUESTS not in self.ring.nexts:
            self.ring.begin({REQUESTS: await self._requests.newest_event() + 1})
            self._tell_if_ready()
        while True:
            found = await self.changes(self.ring.nexts[REQUESTS])
            for one in found:
                self.ring.add(of_change(one))
            if found:
                self._tell()
            if len(found) < CHANGES_AT_ONCE_MAX:
                await asyncio.sleep(_CHANGES_EVERY_S)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _tell_if_ready(self) -> None:
        if REQUESTS in self.ring.nexts and len(self.ring.nexts) > 1:
            self._ready.set()

    async def _in(self, threads: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(threads, call)
