"""`headrace archive` and `headrace restore`, composed from the settings."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

from headrace.batch.archive.move import ArchiveReport, BodyMover, Route, Throttle
from headrace.batch.archive.plan import ARCHIVED_KINDS, in_reading_order, is_due, is_separate
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.digest import record_id
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.storage_class import StorageClassStore
from headrace.store.catalog.archives import PAGE_ROWS, Archives, ArchiveSelection, BodyOwner, Location
from headrace.store.catalog.expiry import Expiry
from headrace.store.catalog.orphan_gc import GcRunningError
from headrace.store.installation import require_store

DAY_US = 86_400_000_000
POLL_S = 60.0  # a storage class restores objects within hours
ProgressLine = Callable[[str], None]
Sleep = Callable[[float], Awaitable[None]]


async def archive(
    settings: Settings,
    *,
    dry_run: bool = False,
    shrink: bool | None = None,
    progress: ProgressLine = lambda _line: None,
) -> ArchiveReport:
    """Move the bodies of old LDOs and clips to the archive; an interrupted run resumes when it is repeated.

    `shrink` rewrites the catalog's tables afterwards; None rewrites them only where that is quick.

    Raises:
        HeadraceError: no archive is configured, another run or a repair is running, the catalog may be an older copy,
            catalog and store do not belong together, or a service is unreachable.
    """
    report = ArchiveReport(dry_run=dry_run)
    async with _open_mover(settings, Location.ARCHIVE, report) as (archives, mover):
        before_us = await archives.now_us() - round(settings.archive_after_days * DAY_US)
        if not dry_run:
            await mover.delete_stale_objects()
        for kind in ARCHIVED_KINDS:
            async for bodies in _due_pages(archives, kind, before_us, settings.archive_restored_days):
                await _move_page(mover, bodies, report)
                progress(f"{report.bodies} bodies, {report.body_bytes} bytes")
        if not dry_run:
            async with Expiry.open(settings.postgres_dsn.get_secret_value()) as expiry:
                report.announcements_removed = (await expiry.prune_outbox(settings.outbox_retention_days)).removed
        if shrink is not False and not dry_run:
            before_bytes = await archives.size_bytes()
            await archives.shrink(force=shrink is True)
            progress(f"shrunk the catalog's tables from {before_bytes} to {await archives.size_bytes()} bytes on disk")
    return report


async def restore(
    settings: Settings,
    selected: ArchiveSelection,
    *,
    dry_run: bool = False,
    sleep: Sleep | None = asyncio.sleep,
    progress: ProgressLine = lambda _line: None,
) -> ArchiveReport:
    """Move the bodies of a selection back from the archive; an interrupted run resumes when it is repeated.

    It requests the objects that a storage class has to restore first, and polls until they are readable; with `sleep`
    None it returns without waiting for them.

    Raises:
        HeadraceError: no archive is configured, another run or a repair is running, the catalog may be an older copy,
            catalog and store do not belong together, or a service is unreachable.
    """
    report = ArchiveReport(dry_run=dry_run)
    await _restore_readable(settings, selected, report, progress)
    # No lock is held between two rounds: others may archive and repair in the meantime.
    while sleep is not None and report.waiting:
        progress(f"waiting for {report.waiting} bodies to leave their storage class; polling again in {POLL_S:.0f} s")
        await sleep(POLL_S)
        try:
            await _restore_readable(settings, selected, report, progress)
        except GcRunningError as error:
            progress(f"{error.what}; waiting for it to finish")
    return report


def open_archive(settings: Settings) -> Blobs:
    """Open the archive that the settings name.

    Raises:
        HeadraceError: no archive is configured, or it overlaps with the blob store's own objects.
    """
    if not settings.archive_url:
        raise HeadraceError(
            "archive_unknown",
            "no archive is configured",
            hint="set HEADRACE_ARCHIVE_URL to a bucket or prefix, for example s3://headrace-archive",
            exit_code=Exit.USAGE,
        )
    if not is_separate(settings.archive_url, settings.store_url):
        raise HeadraceError(
            "setting_invalid",
            "HEADRACE_ARCHIVE_URL overlaps with the blob store's own objects",
            hint="use a separate bucket or prefix for the archive, for example s3://headrace/archive",
            exit_code=Exit.USAGE,
        )
    return Blobs.from_settings(settings.model_copy(update={"store_url": settings.archive_url}))


async def _restore_readable(
    settings: Settings, selected: ArchiveSelection, report: ArchiveReport, progress: ProgressLine
) -> None:
    async with _open_mover(settings, Location.STORE, report) as (archives, mover):
        report.waiting = 0
        if not report.dry_run:
            await mover.delete_stale_objects()
        async for bodies in _archived_pages(archives, selected):
            await _move_page(mover, bodies, report)
            progress(f"{report.bodies} bodies, {report.body_bytes} bytes")


@asynccontextmanager
async def _open_mover(
    settings: Settings, to: Location, report: ArchiveReport
) -> AsyncIterator[tuple[Archives, BodyMover]]:
    stores: Mapping[Location, Blobs] = {
        Location.STORE: Blobs.from_settings(settings),
        Location.ARCHIVE: open_archive(settings),
    }
    await require_store(settings, stores[Location.STORE])
    is_s3 = settings.archive_url.startswith("s3://")
    async with AsyncExitStack() as stack:
        storage_class = await stack.enter_async_context(StorageClassStore.open(settings)) if is_s3 else None
        archives = await stack.enter_async_context(Archives.open(settings.postgres_dsn.get_secret_value()))
        state = await archives.collection_state()
        if state.why_suspended is not None:
            raise HeadraceError(
                "archive_suspended",
                f"nothing can be moved now: {state.why_suspended}",
                hint="run it again when the recovery is over",
            )
        throttle = Throttle(settings.archive_bytes_per_s)
        yield archives, BodyMover(archives, Route(stores, to, storage_class), throttle=throttle, report=report)


async def _move_page(mover: BodyMover, bodies: Sequence[BlobLocation], report: ArchiveReport) -> None:
    if report.dry_run:
        report.bodies += len(bodies)
        report.body_bytes += sum(body.size_bytes for body in bodies)
    else:
        await mover.run(bodies)


async def _due_pages(
    archives: Archives, kind: Kind, before_us: int, restored_days: float
) -> AsyncIterator[list[BlobLocation]]:
    """Yield pages of the bodies of a kind that are due, oldest first."""
    after = (0, UUID(int=0))
    while page := await archives.due(kind, before_us=before_us, restored_days=restored_days, after=after):
        after = (page[-1].ingested_at_us, page[-1].record_id)
        if bodies := [record.blob for record in page if record.blob is not None]:
            owners = await _owners_by_digest(archives, bodies)
            yield in_reading_order(body for body in bodies if is_due(owners[body.digest], before_us))


async def _owners_by_digest(archives: Archives, bodies: Sequence[BlobLocation]) -> dict[bytes, list[BodyOwner]]:
    """Return the records of each digest; records of several kinds may share one."""
    owners: dict[bytes, list[BodyOwner]] = {body.digest: [] for body in bodies}
    for owner in await archives.owners([record_id(kind, body.digest.hex()) for body in bodies for kind in Kind]):
        owners[owner.digest].append(owner)
    return owners


async def _archived_pages(archives: Archives, selected: ArchiveSelection) -> AsyncIterator[list[BlobLocation]]:
    after = UUID(int=0)
    while True:
        page = await archives.archived(selected, after=after)
        if page:
            after = page[-1][0]
            yield in_reading_order(body for _, body in page)
        if len(page) < PAGE_ROWS:
            return
