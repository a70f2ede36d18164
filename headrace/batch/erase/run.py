"""Erases records, sources and sites, and goes on with erasures that were interrupted.

headrace/store/catalog/erasures.py explains the order of the steps.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

from headrace.batch.archive.job import open_archive
from headrace.batch.erase.report import ErasureReport, SignReport, write_report
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.digest import blob_key, erased_key
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import QUARANTINE_PREFIX, STAGING_PREFIX
from headrace.store.blobs.storage_class import StorageClassStore
from headrace.store.catalog.archives import Archives, Location
from headrace.store.catalog.erasures import ErasedObject, Erasure, Erasures, Target
from headrace.store.catalog.orphan_gc import DELETE_S_MAX, STATEMENT_S_MAX, OrphanGc, collector_lock
from headrace.store.catalog.retention import Retention, RetentionRule
from headrace.store.errors import BlobCorruptError, BlobMissingError
from headrace.store.installation import require_installation
from headrace.store.postgres import connected

if TYPE_CHECKING:
    from headrace.store.postgres import Pooled

ProgressLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """What to erase, who asks for it, and why."""

    target: Target
    actor: str
    reason: str


async def plan(settings: Settings, target: Target) -> tuple[int, int]:
    """Count the records and dead letters that an erasure would delete now; changes nothing.

    Raises:
        HeadraceError: a service is unreachable.
    """
    if target.record_ids:
        return len(target.record_ids), 0
    dsn = settings.postgres_dsn.get_secret_value()
    application = "headrace erase --dry-run"
    async with connected(dsn, statement_s_max=STATEMENT_S_MAX, application=application) as connection:
        return await Erasures(connection, dsn).count(target)


async def erase(
    settings: Settings,
    request: ErasureRequest | None,
    *,
    sign: SignReport,
    progress: ProgressLine = lambda _line: None,
) -> list[ErasureReport]:
    """Go on with every erasure that was interrupted, then carry out the request; return the reports of both.

    An interrupted run goes on when it is repeated, also without a request.

    Raises:
        HeadraceError: another erasure, archive, restore or repair is running, the catalog may be an older copy, Kafka,
            catalog and store do not belong together, or a service is unreachable.
    """
    async with _open(settings, progress) as job:
        await job.prepare()
        reports = [await job.run(erasure, sign) for erasure in await job.erasures.unfinished()]
        if request is not None:
            erasure = await job.erasures.begin(uuid4(), request.target, actor=request.actor, reason=request.reason)
            reached(CrashPoint.ERASE_AFTER_BEGIN)
            reports.append(await job.run(erasure, sign))
    return reports


async def retain(
    settings: Settings, *, sign: SignReport, progress: ProgressLine = lambda _line: None
) -> list[ErasureReport]:
    """Erase what is older than its retention, kind by kind; go on with what was interrupted first. May be repeated.

    Raises:
        HeadraceError: as `erase`.
    """
    async with _open(settings, progress) as job:
        await job.prepare()
        reports = [await job.run(erasure, sign) for erasure in await job.erasures.unfinished()]
        for rule in await job.rules():
            erasure = await job.erasures.begin_retention(uuid4(), rule)
            reports.append(await job.run(erasure, sign))
    return reports


@asynccontextmanager
async def _open(settings: Settings, progress: ProgressLine) -> AsyncIterator["EraseJob"]:
    stores = {Location.STORE: Blobs.from_settings(settings)}
    await require_installation(settings, stores[Location.STORE])
    dsn = settings.postgres_dsn.get_secret_value()
    async with AsyncExitStack() as stack:
        storage_class = None
        if settings.archive_url:
            stores[Location.ARCHIVE] = open_archive(settings)
            if settings.archive_url.startswith("s3://"):
                storage_class = await stack.enter_async_context(StorageClassStore.open(settings))
        holder = await stack.enter_async_context(collector_lock(dsn, application="headrace erase"))
        yield EraseJob(settings, holder, ErasedFrom(stores, storage_class), progress)


@dataclass(frozen=True, slots=True)
class ErasedFrom:
    """The store, and the archive if there is one, with its storage class."""

    stores: Mapping[Location, Blobs]
    storage_class: StorageClassStore | None

    def place(self, location: Location) -> Blobs:
        """Return the store of a location.

        Raises:
            HeadraceError: bodies are archived, and no archive is configured.
        """
        if location not in self.stores:
            raise HeadraceError(
                "archive_unknown",
                "bodies to erase are in the archive, and no archive is configured",
                hint="set HEADRACE_ARCHIVE_URL to where they were archived, then run `headrace erase --resume`",
            )
        return self.stores[location]


class EraseJob:
    """The steps of erasures, in the process that holds COLLECTOR_LOCK."""

    def __init__(self, settings: Settings, holder: "Pooled", places: ErasedFrom, progress: ProgressLine) -> None:
        """Use the connection that holds the lock."""
        dsn = settings.postgres_dsn.get_secret_value()
        self._settings = settings
        self.erasures = Erasures(holder, dsn)
        self._orphan_gc = OrphanGc(holder, dsn)
        self._archives = Archives(holder, dsn)
        self._retention = Retention(holder, dsn)
        self._places = places
        self._progress = progress

    async def prepare(self) -> None:
        """Finish what an interrupted collection or move has left.

        Raises:
            HeadraceError: the catalog may be an older copy, or is being recovered.
        """
        state = await self._orphan_gc.state()
        if state.why_suspended is not None:
            raise HeadraceError(
                "erase_suspended",
                f"nothing can be erased now: {state.why_suspended}",
                hint="run `headrace erase` again when the recovery is over",
            )
        await self._orphan_gc.release()
        for stale in await self._archives.leavings():
            if stale.is_free:
                await self._places.place(stale.place).delete(stale.store_key)
            await self._archives.settled(stale)

    async def rules(self) -> list[RetentionRule]:
        """Return the retention rules, those of a site before those of all others."""
        return await self._retention.rules()

    async def run(self, erasure: Erasure, sign: SignReport) -> ErasureReport:
        """Delete the rows, then the objects, then write the report."""
        while await self.erasures.erase_page(erasure, reached=reached):
            reached(CrashPoint.ERASE_AFTER_COMMIT)
            await self._remove_objects(erasure)
        await self._remove_objects(erasure)
        await self.erasures.forget_requests(erasure)
        reached(CrashPoint.ERASE_BEFORE_REPORT)
        self._progress(f"{erasure.erasure_id}: rows and objects are deleted; writing the report")
        return await write_report(self._settings, self.erasures, erasure, sign)

    async def _remove_objects(self, erasure: Erasure) -> None:
        after = ("", "")
        while page := await self.erasures.objects(after):
            marked_s = time.monotonic()
            names = [erased.store_key for erased in page if erased.place is Location.STORE]
            free = set(await self._orphan_gc.mark(names))
            for erased in page:
                if time.monotonic() - marked_s > DELETE_S_MAX:
                    break  # the rest is marked again
                reached(CrashPoint.ERASE_BEFORE_OBJECT)
                outcome = await self._remove(erased, is_free=erased.store_key in free)
                reached(CrashPoint.ERASE_AFTER_OBJECT)
                await self.erasures.done(erasure, erased, outcome)
                after = (erased.place, erased.store_key)
            reached(CrashPoint.ERASE_BEFORE_RELEASE)
            await self._orphan_gc.release()

    async def _remove(self, erased: ErasedObject, *, is_free: bool) -> str:
        """Delete an object, or write a pack again; return what was done."""
        blobs, key = self._places.place(erased.place), erased.store_key
        if key.endswith("/"):
            async with aclosing(blobs.list(key)) as derived:
                names = [stat.key async for stat in derived]
            for name in names:
                await blobs.delete(name)
            return "deleted" if names else "absent"
        if key.startswith("packs/") and (spans := await self.erasures.spans(erased)):
            await blobs.delete(f"{QUARANTINE_PREFIX}{key}")
            return await self._rewrite(blobs, erased, [(span.store_offset, span.size_bytes) for span in spans])
        if erased.place is Location.STORE and not is_free:
            return "kept"
        if erased.place is Location.STORE and key == blob_key(erased.digest.hex()):
            # Before the bytes go: whoever reads them from now on learns why they are missing.
            await blobs.create(erased_key(erased.digest.hex()), b"")
        if not key.startswith(STAGING_PREFIX):
            await blobs.delete(f"{QUARANTINE_PREFIX}{key}")
        is_there = await blobs.stat(key) is not None
        await blobs.delete(key)
        return "deleted" if is_there else "absent"

    async def _rewrite(self, blobs: Blobs, erased: ErasedObject, kept: Sequence[tuple[int, int]]) -> str:
        key, storage_class = erased.store_key, self._places.storage_class
        in_class = storage_class if erased.place is Location.ARCHIVE else None
        try:
            if in_class is not None and not await in_class.is_awake(key):
                raise HeadraceError(
                    "erase_waiting",
                    f"the archived object {key} is being restored by its storage class, to be written again",
                    hint="run `headrace erase --resume` in some hours",
                )
            tar = pack.blanked(await blobs.get(key), kept)
        except BlobMissingError:
            return "absent"  # `headrace fsck` reports it
        await blobs.replace(key, tar, media_type=pack.MEDIA_TYPE)
        if await blobs.get(key) != tar:
            raise BlobCorruptError(key, "the bytes read differ from the bytes written", where=blobs.where)
        if in_class is not None:
            await in_class.freeze(key)
        return "rewritten"
