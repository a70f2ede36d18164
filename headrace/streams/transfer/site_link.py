"""Brings the bodies of one site, one at a time: what was asked for first, then the most important and smallest."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from headrace.runtime import crash_points, metrics
from headrace.runtime.background_task import first
from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.catalog_rows import BlobRow, RowBatch
from headrace.schemas.digest import blob_key, clip_of, pack_key, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import BULK_BYTES_MIN, Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.transfers import Transfer, Transfers
from headrace.store.errors import BlobsCollectedError, CatalogUnavailableError
from headrace.streams.transfer.body_files import BodyFiles, chunks_of
from headrace.streams.transfer.limits import HoursLimit, TokenBucket, rate_at

POLL_S = 5.0
RETRY_S = 30.0  # after a body could not be brought
PACKED_MAX = 500  # small bodies in one pack
AT_ONCE_MAX = 8  # small bodies that are read at a time: each takes the time of a request

T = TypeVar("T")


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
        packed = [] if transfer.requested else await self._ports.transfers.next_packed(self.site, limit=PACKED_MAX)
        if transfer in packed:
            await self._bring_packed(packed)
        else:
            await self._or_later(transfer, self._bring(transfer))
        return False

    async def _or_later(self, transfer: Transfer, bringing: Awaitable[T]) -> T | None:
        """Try to bring a body; one that cannot be brought is tried again later."""
        try:
            return await bringing
        except CatalogUnavailableError:
            raise
        except (HeadraceError, OSError) as error:
            why = error.what if isinstance(error, HeadraceError) else str(error)
            metrics.transfer_bodies_total.labels(self.site, "failed").inc()
            get_log().warning(Action.RETRYING, site=self.site, digest=transfer.digest.hex(), why=why, in_s=RETRY_S)
            await self._ports.transfers.postpone(transfer, why, RETRY_S)
            return None

    async def _bring_packed(self, transfers: Sequence[Transfer]) -> None:
        """Bring small bodies side by side, and put them into one pack."""
        at_once = asyncio.Semaphore(AT_ONCE_MAX)

        async def read(transfer: Transfer) -> bool | None:
            async with at_once:
                return await self._or_later(transfer, self._is_read(transfer))

        # Each of them ends before anything is raised: no file may have two writers.
        are_read = await asyncio.gather(*map(read, transfers), return_exceptions=True)
        for failed in (outcome for outcome in are_read if isinstance(outcome, BaseException)):
            raise failed
        here = [transfer for transfer, is_read in zip(transfers, are_read, strict=True) if is_read]
        if not here:
            return
        members = [(transfer.digest.hex(), self._files.path(transfer).read_bytes()) for transfer in here]
        tar, spans = pack.build(members)
        key = pack_key(sha256_hex(tar))
        rows = [_row(transfer, key, offset) for transfer, (offset, _) in zip(here, spans, strict=True)]
        putting = self._put(rows, lambda: self._ports.blobs.put(key, tar, media_type=pack.MEDIA_TYPE))
        if await self._or_later(here[0], putting):
            for transfer in here:
                self._arrived(transfer)

    async def _bring(self, transfer: Transfer) -> None:
        if await self._is_read(transfer):
            path, key = self._files.path(transfer), blob_key(transfer.digest.hex())

            async def put() -> None:
                if transfer.size_bytes < BULK_BYTES_MIN:
                    await self._ports.blobs.put(key, path.read_bytes(), media_type=transfer.media_type)
                else:
                    await self._ports.blobs.put_stream(key, chunks_of(path), media_type=transfer.media_type)

            await self._put([_row(transfer, key)], put)
            self._arrived(transfer)

    async def _is_read(self, transfer: Transfer) -> bool:
        """Read a body, unless its bytes are here or erased, or another one is to come first."""
        known = await self._ports.catalog.look_up([transfer.digest])
        location = known.blobs.get(transfer.digest)
        if any(tombstone.keeps_out(transfer.site, "") for tombstone in known.tombstones):
            await self._ports.transfers.drop(transfer.digest)
        elif location is not None:
            row = _row(transfer, location.store_key, location.store_offset)
            await self._commit([row], None)
            metrics.transfer_bodies_total.labels(self.site, "known").inc()
        else:
            is_whole = await self._files.fetch(transfer, partial(self._before_part, transfer))
            if is_whole:
                await self._note_clip(transfer)
            return is_whole
        self._files.discard(transfer)
        return False

    def _arrived(self, transfer: Transfer) -> None:
        self._files.discard(transfer)
        self.steps += 1
        metrics.transfer_bodies_total.labels(self.site, "arrived").inc()
        get_log().debug(Action.TRANSFERRED, site=self.site, digest=transfer.digest.hex(), bytes=transfer.size_bytes)

    async def _note_clip(self, transfer: Transfer) -> None:
        """Before the bytes are here: whoever exports the LDO then has its clip with it."""
        if transfer.record_id == record_id(Kind.LDO, transfer.digest.hex()):
            clip = clip_of(self._files.path(transfer).read_bytes())
            if clip is not None:
                await self._ports.transfers.set_clip(transfer.record_id, bytes.fromhex(clip))

    async def _put(self, rows: Sequence[BlobRow], put: Callable[[], Awaitable[object]]) -> bool:
        """Put an object and commit its blobs; again if objects were collected meanwhile. Returns True."""
        while True:
            epoch = await self._ports.catalog.collection_epoch()
            self._reached(CrashPoint.TRANSFER_BEFORE_PUT)
            await put()
            self._reached(CrashPoint.TRANSFER_AFTER_PUT)
            try:
                await self._commit(rows, epoch)
            except BlobsCollectedError:
                continue
            return True

    async def _commit(self, rows: Sequence[BlobRow], epoch: int | None) -> None:
        await self._ports.catalog.commit(
            RowBatch(blobs=[*rows], records=[], sightings=[], dead_letters=[], collection_epoch=epoch)
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


def _row(transfer: Transfer, key: str, offset: int | None = None) -> BlobRow:
    return BlobRow(
        digest=transfer.digest,
        size_bytes=transfer.size_bytes,
        media_type=transfer.media_type,
        store_key=key,
        store_offset=offset,
    )
