"""Brings the bodies of one site, one at a time: what was asked for first, then the most important and smallest."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from headrace.runtime import crash_points, metrics
from headrace.runtime.background_task import first
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.catalog_rows import BlobRow, RowBatch
from headrace.schemas.digest import blob_key
from headrace.store.blobs.blob_store import BULK_BYTES_MIN, Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.transfers import Transfer, Transfers
from headrace.store.errors import BlobsCollectedError, CatalogUnavailableError
from headrace.streams.transfer.body_files import BodyFiles, chunks_of
from headrace.streams.transfer.limits import HoursLimit, TokenBucket, rate_at

POLL_S = 5.0
CLOSED_S = 20.0  # between looks while the hours are closed
RETRY_S = 30.0  # after a body could not be brought


@dataclass(frozen=True, slots=True)
class TransferPorts:
    """The own catalog and store, and the bodies to bring."""

    catalog: Catalog
    blobs: Blobs
    transfers: Transfers


@dataclass(frozen=True, slots=True)
class Pace:
    """The limits of a link, and the clocks that they go by: seconds that pass, and the hour of the day (UTC)."""

    limits: tuple[HoursLimit, ...] = ()
    clock: Callable[[], float] = time.monotonic
    hour: Callable[[], int] = lambda: time.gmtime().tm_hour


class SiteLink:
    """The link of one site. `steps` counts parts and bodies, for the watchdog; `wake` is set when there is more."""

    def __init__(
        self, site: str, ports: TransferPorts, files: BodyFiles, pace: Pace, *, reached: Reached = crash_points.reached
    ) -> None:
        """`reached` is called at each crash point."""
        self.site = site
        self._ports = ports
        self._files = files
        self._pace = pace
        self._bucket = TokenBucket(pace.clock)
        self._reached = reached
        self.wake = asyncio.Event()
        self.steps = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Bring bodies until `stop` is set."""
        while not stop.is_set():
            self.wake.clear()
            try:
                is_done = await self.bring_next()
            except CatalogUnavailableError as error:
                get_log().warning(Action.RETRYING, service="postgres", site=self.site, why=error.what)
                is_done = True
            if is_done:
                await first(POLL_S, stop, self.wake)

    async def bring_next(self) -> bool:
        """Bring the body that comes next; return True where nothing can be brought now."""
        is_closed = rate_at(self._pace.limits, self._pace.hour()) == 0
        transfer = await self._ports.transfers.next(self.site, requested_only=is_closed)
        if transfer is None:
            return True
        try:
            await self._bring(transfer)
        except CatalogUnavailableError:
            raise
        except (HeadraceError, OSError) as error:
            why = error.what if isinstance(error, HeadraceError) else str(error)
            metrics.transfer_bodies_total.labels(self.site, "failed").inc()
            get_log().warning(Action.RETRYING, site=self.site, digest=transfer.digest.hex(), why=why, in_s=RETRY_S)
            await self._ports.transfers.postpone(transfer, why, RETRY_S)
        return False

    async def _bring(self, transfer: Transfer) -> None:
        known = await self._ports.catalog.look_up([transfer.digest])
        if any(tombstone.keeps_out(transfer.site, "") for tombstone in known.tombstones):
            await self._ports.transfers.drop(transfer.digest)
            self._files.discard(transfer)
            return
        location = known.blobs.get(transfer.digest)
        if location is None:
            if not await self._files.fetch(transfer, partial(self._before_part, transfer)):
                return  # another one was asked for
            await self._store(transfer)
        else:
            row = BlobRow(
                digest=transfer.digest,
                size_bytes=location.size_bytes,
                media_type=location.media_type,
                store_key=location.store_key,
                store_offset=location.store_offset,
            )
            await self._commit(row, None)
        self._files.discard(transfer)
        self.steps += 1
        metrics.transfer_bodies_total.labels(self.site, "arrived" if location is None else "known").inc()
        get_log().debug(Action.TRANSFERRED, site=self.site, digest=transfer.digest.hex(), bytes=transfer.size_bytes)

    async def _store(self, transfer: Transfer) -> None:
        """Put a verified file and commit its blob; again if objects were collected meanwhile."""
        path, key = self._files.path(transfer), blob_key(transfer.digest.hex())
        row = BlobRow(
            digest=transfer.digest, size_bytes=transfer.size_bytes, media_type=transfer.media_type, store_key=key
        )
        while True:
            epoch = await self._ports.catalog.collection_epoch()
            self._reached(CrashPoint.TRANSFER_BEFORE_PUT)
            if transfer.size_bytes < BULK_BYTES_MIN:
                await self._ports.blobs.put(key, path.read_bytes(), media_type=transfer.media_type)
            else:
                await self._ports.blobs.put_stream(key, chunks_of(path), media_type=transfer.media_type)
            self._reached(CrashPoint.TRANSFER_AFTER_PUT)
            try:
                await self._commit(row, epoch)
            except BlobsCollectedError:
                continue
            return

    async def _commit(self, row: BlobRow, epoch: int | None) -> None:
        await self._ports.catalog.commit(
            RowBatch(blobs=[row], records=[], sightings=[], dead_letters=[], collection_epoch=epoch)
        )

    async def _before_part(self, transfer: Transfer, size_bytes: int) -> bool:
        """Wait as the limit says; return False if another body is to come first, or the hours are closed."""
        self.steps += 1
        if not transfer.requested and await self._ports.transfers.is_other_requested(transfer):
            return False
        rate = rate_at(self._pace.limits, self._pace.hour())
        if rate == 0 and not transfer.requested:
            return False
        await asyncio.sleep(self._bucket.take(size_bytes, rate or None))
        return True
