"""The relay: publishes the rows of the outbox while it holds the leader lock, each topic on its own (`topic_relay.py`).

The leader lock in PostgreSQL keeps two relays from fencing each other again and again; that two of them do no harm
rests on Kafka's fencing.
"""

import asyncio
import time
from collections.abc import Callable

from headrace.runtime import crash_points
from headrace.runtime.background_task import first
from headrace.runtime.crash_points import Reached
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import relay_leading, relay_pending_rows, relay_set_aside_rows
from headrace.runtime.settings import Settings
from headrace.store.catalog.outbox import Outbox
from headrace.store.catalog.sessions import CommitListener, LeaderLock
from headrace.streams.relay.announcement import OUTPUT_TOPICS
from headrace.streams.relay.topic_relay import Phase, RelayFailedError, TopicRelay, unless
from headrace.streams.transaction_errors import FencedError

COUNT_EVERY_S = 5.0
COUNT_SHARE_MAX = 0.05  # of the time may go into counting, however long the backlog
REBUILD_CHECK_S = 1.0  # between two looks whether a topic is rebuilt, which wakes the relay as often

_BUSY = (Phase.CATCHING_UP, Phase.ANNOUNCING)


class Relay:
    """Publishes the outbox while it holds the leader lock. `phase` and `steps` show its progress."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        *,
        now_us: Callable[[], int],
        reached: Reached = crash_points.reached,
        topic_relay: type[TopicRelay] = TopicRelay,
    ) -> None:
        """`reached` is called at each crash point."""
        self._outbox = outbox
        self._topics = [
            topic_relay(settings, topic, outbox, now_us=now_us, reached=reached) for topic in OUTPUT_TOPICS.values()
        ]

    @property
    def phase(self) -> Phase:
        """What the busiest topic is doing."""
        phases = {topic.phase for topic in self._topics}
        return next((phase for phase in (*_BUSY, Phase.RETRYING, Phase.IDLE) if phase in phases), Phase.STANDING_BY)

    @property
    def announced(self) -> int:
        """How many rows were announced."""
        return sum(topic.announced for topic in self._topics)

    @property
    def steps(self) -> list[int]:
        """Count the steps of the topics that have work."""
        return [topic.steps for topic in self._topics if topic.phase in _BUSY]

    def waiting(self) -> bool:
        """Return whether there is work, for the watchdog."""
        return self.phase in _BUSY

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
            for topic in self._topics:
                topic.close()

    async def _count(self) -> None:
        """Measure the backlog periodically; a large one takes long to count, so it is counted less often."""
        while True:
            began_s = time.monotonic()
            try:
                relay_pending_rows.set(await self._outbox.unpublished())
                relay_set_aside_rows.set(await self._outbox.set_aside_rows())
            except HeadraceError as error:
                # The publishing loops handle an outage of PostgreSQL; a stale gauge is no reason to end.
                get_log().debug(Action.RETRYING, service="postgres", why=error.what)
            took_s = time.monotonic() - began_s
            await asyncio.sleep(max(COUNT_EVERY_S, took_s / COUNT_SHARE_MAX))

    async def _term(self, listener: CommitListener, stop: asyncio.Event) -> int | None:
        """Wait for the leader lock, then publish until it is lost.

        Returns the exit code, or None to wait for the lock again.
        """
        get_log().info(Action.STANDING_BY)
        leader_lock = await unless(stop, self._outbox.wait_for_leader_lock())
        if leader_lock is None:
            return Exit.OK
        if await self._is_rebuilding():
            await leader_lock.release()
            await first(REBUILD_CHECK_S, stop)
            return None
        relay_leading.set(1)
        get_log().info(Action.LEADING)
        try:
            await self._lead(leader_lock, listener, stop)
        except FencedError as fenced:
            get_log().warning(Action.LEADERSHIP_LOST, why=str(fenced))
            return Exit.TRANSIENT
        except RelayFailedError as failed:
            get_log().error(Action.HALTED, why=str(failed))
            return Exit.TRANSIENT
        finally:
            relay_leading.set(0)
            leader_lock_lost = leader_lock.lost.is_set()
            await leader_lock.release()
        if stop.is_set():
            return Exit.OK
        why = "the leader lock was lost with its connection to PostgreSQL"
        get_log().warning(Action.RETRYING, why=why if leader_lock_lost else "a topic is rebuilt")
        return None

    async def _lead(self, leader_lock: LeaderLock, listener: CommitListener, stop: asyncio.Event) -> None:
        """Publish every topic until the lock is lost or `stop` is set; what one of them raises ends all of them."""
        over = asyncio.Event()
        working = [asyncio.create_task(topic.run(over)) for topic in self._topics]
        following = asyncio.create_task(self._follow(leader_lock, listener, stop, over))
        try:
            await asyncio.gather(*working)
        finally:
            over.set()
            following.cancel()
            # A transaction that is under way may end.
            await asyncio.wait([*working, following])

    async def _follow(
        self, leader_lock: LeaderLock, listener: CommitListener, stop: asyncio.Event, over: asyncio.Event
    ) -> None:
        """Wake the topics for new rows, and set `over` at the end of the term; also if a topic is to be rebuilt."""
        checked_s = time.monotonic()
        while not (leader_lock.lost.is_set() or stop.is_set()):
            await first(None, listener.notified, leader_lock.lost, stop)
            listener.notified.clear()
            for topic in self._topics:
                topic.wake.set()
            if time.monotonic() - checked_s >= REBUILD_CHECK_S:
                checked_s = time.monotonic()
                if await self._is_rebuilding():
                    break
        over.set()

    async def _is_rebuilding(self) -> bool:
        try:
            return await self._outbox.is_rebuilding()
        except HeadraceError:
            return False  # the lock is lost with its connection, or the topics end for the same reason
