"""Carries out a replay, or resumes it where an earlier run stopped."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeAlias
from uuid import UUID, uuid4

from headrace.batch.archive.job import restore
from headrace.batch.export.sample import declared_label
from headrace.batch.replay.request import Pace, ReplayRequest, Schedule
from headrace.batch.replay.sinks import Sink
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.body import Body
from headrace.store.catalog.archives import ArchiveSelection
from headrace.store.catalog.replays import Replayed, ReplayPlan, Replays, ReplaySelection, Scheduled, StoredReplay
from headrace.store.catalog.sessions import LeaderLock, try_leader_lock
from headrace.store.errors import BlobCorruptError, BlobErasedError, BlobMissingError, CatalogUnavailableError, address
from headrace.store.installation import require_store
from headrace.store.locks import replay_lock

PAGE_ITEMS = 1000
BATCH_ITEMS_MAX = 500
_WAIT_S_MAX = 1.0  # between two looks at the lock

Sleep: TypeAlias = Callable[[float], Awaitable[None]]


@dataclass
class ReplayResult:
    """How far a replay is: `position` of `items`, and what this run did.

    `archived` were left out because they are in the archive, `unlabelled` because they have another label, `gone`
    because they were erased or have no bytes.
    """

    name: str
    replay_id: UUID
    items: int
    position: int = 0
    delivered: int = 0
    archived: int = 0
    unlabelled: int = 0
    gone: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run goes; a later run of the same replay may have others.

    `restores` brings archived bodies back on the way. `progress` is called after each batch.
    """

    name: str = ""
    pace: Pace = field(default_factory=Pace)
    restores: bool = False
    progress: Callable[[ReplayResult], None] = lambda _result: None
    say: Callable[[str], None] = lambda _line: None


async def plan_replay(settings: Settings, wanted: ReplaySelection) -> ReplayPlan:
    """Return what a selection has now; changes nothing.

    Raises:
        HeadraceError: the catalog is unreachable.
    """
    async with Replays.open(settings.postgres_dsn.get_secret_value()) as replays:
        return await replays.plan(wanted)


async def run_replay(settings: Settings, request: ReplayRequest, sink: Sink, options: RunOptions) -> ReplayResult:
    """Deliver a selection in capture order; a run that was interrupted goes on when it is repeated under its name.

    Raises:
        HeadraceError: another run has the name now, the name is that of another replay, catalog and store do not belong
            together, or a service is unreachable.
        Exception: what a handler raised; the next run delivers its event first.
    """
    dsn = settings.postgres_dsn.get_secret_value()
    blobs = Blobs.from_settings(settings)
    await require_store(settings, blobs)
    name = options.name or str(uuid4())
    lock = await try_leader_lock(dsn, replay_lock(name))
    if lock is None:
        raise HeadraceError("replay_running", f"the replay {name} is running", hint="wait until it has ended")
    try:
        async with Replays.open(dsn) as replays:
            stored = await _begun(replays, name, request)
            result = ReplayResult(name, stored.replay_id, stored.items, stored.position)
            if not stored.has_ended:
                try:
                    await sink.open(stored.replay_id, stored.position)
                    run = ReplayRun(settings, replays, sink, options, result)
                    await run.deliver_all(request, lock)
                finally:
                    await sink.close()
            return result
    finally:
        await lock.release()


async def _begun(replays: Replays, name: str, request: ReplayRequest) -> StoredReplay:
    stored = await replays.find(name)
    if stored is None:
        stored = await replays.begin(name, uuid4(), request.wanted, request.as_json())
        reached(CrashPoint.REPLAY_AFTER_BEGIN)
    elif stored.request != request.as_json():
        raise HeadraceError(
            "replay_differs",
            f"the replay {name} selects something else, or goes elsewhere",
            hint="repeat the same command, or choose another --name",
            exit_code=Exit.USAGE,
        )
    return stored


class ReplayRun:
    """One run of a replay."""

    def __init__(
        self, settings: Settings, replays: Replays, sink: Sink, options: RunOptions, result: ReplayResult
    ) -> None:
        """`result` is updated."""
        self._settings = settings
        self._replays = replays
        self._sink = sink
        self._options = options
        self._result = result
        self._blobs = Blobs.from_settings(settings)

    async def deliver_all(self, request: ReplayRequest, lock: LeaderLock) -> None:
        """Deliver what is behind the sink's position, each item when it is due."""
        result = self._result
        try:
            async with aclosing(self._batches()) as batches:
                async for after, until in batches:
                    if lock.lost.is_set():
                        dsn = self._settings.postgres_dsn.get_secret_value()
                        raise CatalogUnavailableError("the connection was lost", where=address(dsn))
                    events = await self._wanted(request, after, until)
                    await self._sink.deliver(events, until)
                    result.delivered += len(events)
                    await self._moved()
        finally:
            if self._sink.position > result.position:
                await self._moved()
        reached(CrashPoint.REPLAY_BEFORE_END)
        await self._replays.end(result.replay_id)

    async def _moved(self) -> None:
        self._result.position = self._sink.position
        await self._replays.move(self._result.replay_id, self._result.position)
        self._options.progress(self._result)

    async def _batches(self) -> AsyncGenerator[tuple[int, int]]:
        """Yield ranges of items, behind the first position up to the second, once all of them are due."""
        schedule, began_s = Schedule(self._options.pace), time.monotonic()
        position = self._sink.position
        while page := await self._replays.schedule(self._result.replay_id, position, PAGE_ITEMS):
            await self._restore(page)
            dues_s = [schedule.due_s(item.captured_at_us) for item in page]
            first = 0
            while first < len(page):
                elapsed_s = time.monotonic() - began_s
                if (wait_s := dues_s[first] - elapsed_s) > 0:
                    await asyncio.sleep(min(wait_s, _WAIT_S_MAX))
                    continue
                most = min(len(page), first + BATCH_ITEMS_MAX)
                end = next((number for number in range(first, most) if dues_s[number] > elapsed_s), most)
                yield position, page[end - 1].position
                position, first = page[end - 1].position, end

    async def _restore(self, page: Sequence[Scheduled]) -> None:
        ids = tuple(item.record_id for item in page if item.is_archived)
        if ids and self._options.restores:
            await restore(self._settings, ArchiveSelection(ids=ids), progress=self._options.say)

    async def _wanted(self, request: ReplayRequest, after: int, until: int) -> list[Replayed]:
        """Return the events of a range that are to be delivered, and count the others."""
        events = await self._replays.events(self._result.replay_id, after, until)
        self._result.gone += until - after - len(events)
        there = [item for item in events if item.archived_at_us is None]
        self._result.archived += len(events) - len(there)
        wanted = [item for item in there if await self._is_wanted(item, request)]
        self._result.unlabelled += len(there) - len(wanted)
        return wanted

    async def _is_wanted(self, item: Replayed, request: ReplayRequest) -> bool:
        event, labels = item.event, request.wanted.labels
        if UUID(event.record_id) in request.excluded:
            return False
        if labels is None or request.wanted.labelled is not None:
            return True
        try:
            body = await Body(event, self._blobs).read() if event.kind == Kind.LDO else None
        except (BlobMissingError, BlobCorruptError, BlobErasedError):
            return False
        return declared_label(event.kind, event.attributes, body) in labels
