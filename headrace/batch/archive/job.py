"""`headrace archive` and `headrace restore`, put together from the settings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

from headrace.batch.archive.factory import archive_of
from headrace.batch.archive.move import Move
from headrace.batch.archive.plan import ARCHIVED_KINDS, in_reading_order, is_due
from headrace.batch.archive.report import ArchiveReport
from headrace.batch.archive.throttle import Throttle
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import BlobPlace
from headrace.schemas.digest import record_id
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.storage_class import StorageClassStore
from headrace.store.catalog.archives import PAGE_ROWS, Archives, ArchiveSelection, BodyOwner, Location
from headrace.store.catalog.fsck_queries import FsckQueries
from headrace.store.catalog.orphan_gc import GcRunningError

DAY_US = 86_400_000_000
POLL_S = 60.0  # between two looks at objects that take hours to come
Say = Callable[[str], None]


async def archive(
    settings: Settings, *, dry_run: bool = False, shrink: bool | None = None, say: Say = lambda _line: None
) -> ArchiveReport:
    """Move the bodies of old LDOs and clips to the archive; repeated, it goes on where it was ended.

    With `shrink` the catalog's tables are written anew afterwards; where it is None, only where that is quick.

    Raises:
        HeadraceError: there is no archive, another run or a repair is at work, or a service is away.
    """
    report = ArchiveReport(dry_run=dry_run)
    async with _moving(settings, Location.ARCHIVE, report) as (archives, move):
        before_us = await archives.now_us() - round(settings.archive_after_days * DAY_US)
        if not dry_run:
            await move.remove_leavings()
        for kind in ARCHIVED_KINDS:
            async for bodies in _due(archives, kind, before_us, settings.archive_restored_days):
                await _take(move, bodies, report)
                say(f"{report.bodies} bodies, {report.body_bytes} bytes")
        if not dry_run:
            report.announcements_removed = await _forget_announcements(settings, archives)
        if shrink is not False and not dry_run:
            before = await archives.size_bytes()
            await archives.shrink(anyway=shrink is True)
            say(f"the tables take {await archives.size_bytes()} bytes on disk instead of {before}")
    return report


async def restore(
    settings: Settings,
    selected: ArchiveSelection,
    *,
    dry_run: bool = False,
    wait: bool = True,
    say: Say = lambda _line: None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> ArchiveReport:
    """Bring the bodies of a selection back from the archive; repeated, it goes on where it was ended.

    What a storage class gives back only later is asked for, and with `wait` waited for, past whatever else moves bodies
    meanwhile.

    Raises:
        HeadraceError: there is no archive, another run or a repair is at work, or a service is away.
    """
    report = ArchiveReport(dry_run=dry_run)
    await _restore_what_is_awake(settings, selected, report, say)
    # Between the rounds nothing is held: others may archive and repair while the store takes its hours.
    while wait and report.waiting:
        say(f"{report.waiting} bodies are on their way out of their storage class: asking again in {POLL_S:.0f} s")
        await sleep(POLL_S)
        try:
            await _restore_what_is_awake(settings, selected, report, say)
        except GcRunningError as busy:
            say(f"{busy.what}: they have their turn")
    return report


async def _restore_what_is_awake(
    settings: Settings, selected: ArchiveSelection, report: ArchiveReport, say: Say
) -> None:
    async with _moving(settings, Location.STORE, report) as (archives, move):
        report.waiting = 0
        if not report.dry_run:
            await move.remove_leavings()
        async for bodies in _archived(archives, selected):
            await _take(move, bodies, report)
            say(f"{report.bodies} bodies, {report.body_bytes} bytes")


@asynccontextmanager
async def _moving(settings: Settings, to: Location, report: ArchiveReport) -> AsyncIterator[tuple[Archives, Move]]:
    places: Mapping[Location, Blobs] = {
        Location.STORE: Blobs.from_settings(settings),
        Location.ARCHIVE: archive_of(settings),
    }
    is_s3 = settings.archive_url.startswith("s3://")
    async with AsyncExitStack() as stack:
        cold = await stack.enter_async_context(StorageClassStore.open(settings)) if is_s3 else None
        archives = await stack.enter_async_context(Archives.open(settings.postgres_dsn.get_secret_value()))
        pace = Throttle(settings.archive_bytes_per_s)
        yield archives, Move(archives, places, to, cold=cold, pace=pace, report=report)


async def _take(move: Move, bodies: Sequence[BlobPlace], report: ArchiveReport) -> None:
    if report.dry_run:
        report.bodies += len(bodies)
        report.body_bytes += sum(body.size_bytes for body in bodies)
    else:
        await move.run(bodies)


async def _due(archives: Archives, kind: Kind, before_us: int, restored_days: float) -> AsyncIterator[list[BlobPlace]]:
    """Yield the bodies of a kind that may go, oldest first, in pages."""
    after = (0, UUID(int=0))
    while page := await archives.due(kind, before_us=before_us, restored_days=restored_days, after=after):
        after = (page[-1].ingested_at_us, page[-1].record_id)
        if bodies := [one.blob for one in page if one.blob is not None]:
            owners = await _owners(archives, bodies)
            yield in_reading_order(body for body in bodies if is_due(owners[body.digest], before_us))


async def _owners(archives: Archives, bodies: Sequence[BlobPlace]) -> dict[bytes, list[BodyOwner]]:
    """Return what has these bytes, by digest: a digest may be known under each kind."""
    owners: dict[bytes, list[BodyOwner]] = {body.digest: [] for body in bodies}
    for owner in await archives.owners([record_id(kind, body.digest.hex()) for body in bodies for kind in Kind]):
        owners[owner.digest].append(owner)
    return owners


async def _archived(archives: Archives, selected: ArchiveSelection) -> AsyncIterator[list[BlobPlace]]:
    after = UUID(int=0)
    while True:
        page = await archives.archived(selected, after=after)
        if page:
            after = page[-1][0]
            yield in_reading_order(body for _, body in page)
        if len(page) < PAGE_ROWS:
            return


async def _forget_announcements(settings: Settings, archives: Archives) -> int:
    """End the outbox's memory of what is out and past its retention; say how many rows went."""
    # What is to be forgotten must not be what would have shown that an announcement is missing.
    if await archives.lacks_announcement():
        return 0
    async with FsckQueries.open(settings.postgres_dsn.get_secret_value()) as inventory:
        return await inventory.forget_announcements(settings.outbox_retention_days)
