"""One batch, carried out in the order of durable steps: hash, blobs, catalog. Acknowledging is the lane's.

Every step may be repeated, so a transient fault repeats just that step, and a crash anywhere repeats the batch.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from headrace.runtime import metrics
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import Step
from headrace.schemas.digest import blob_key, pack_key, sha256_hex
from headrace.schemas.events import Clip, Frame, Kind, kind_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import check_media
from headrace.store.blobs import pack
from headrace.store.catalog.rows import CommitResult, RowBatch
from headrace.store.errors import BlobsCollectedError, ClaimMismatchError, ClaimMissingError
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.examine import AcceptedDelivery, RefusedDelivery, examine, refuse
from headrace.streams.core.plan import StoredAt, batch_of, plan
from headrace.streams.core.redrive import as_original, redrives_in
from headrace.streams.worker.ports import BlobPort, CatalogPort, ClaimPort
from headrace.streams.worker.retry import Retry

PUTS_AT_ONCE_MAX = 16  # of one process: MinIO on two cores is saturated by about as many
HEAD_BYTES = 256 * 1024  # of a staged body: enough for the header of any image and the boxes before a movie's data
PROMOTIONS_AT_ONCE_MAX = 4  # each holds two chunks of 4 MiB

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch whose bodies are durable: what remains is its transaction."""

    kind: Kind
    deliveries: tuple[ConsumedMessage, ...]
    batch: RowBatch
    refused: tuple[RefusedDelivery, ...]
    claims: tuple[str, ...]
    body_bytes: int


class Ingest:
    """Carries out batches of one process against its ports."""

    def __init__(
        self, *, blobs: BlobPort, claims: ClaimPort, catalog: CatalogPort, retry: Retry, now_us: Callable[[], int]
    ) -> None:
        self._blobs = blobs
        self._claims = claims
        self._catalog = catalog
        self._retry = retry
        self._now_us = now_us
        self._puts = asyncio.Semaphore(PUTS_AT_ONCE_MAX)
        self._promotions = asyncio.Semaphore(PROMOTIONS_AT_ONCE_MAX)
        # Counts whatever was finished of each kind: a watchdog sees a slow batch move, and a hung one beside others.
        self.steps = dict.fromkeys(Kind, 0)

    async def prepare(self, kind: Kind, deliveries: Sequence[ConsumedMessage]) -> Prepared:
        """Decode, check, hash and store the bodies of a batch."""
        generation = await self._retry(self._catalog.generation)
        deliveries = await self._where_they_stood(deliveries)
        with metrics.worker_step_seconds.labels(Step.DECODE).time():
            examined = await asyncio.to_thread(_examine_all, kind, deliveries, self._now_us())
        with metrics.worker_step_seconds.labels(Step.BLOBS).time():
            known = await self._known([one for one in examined if isinstance(one, AcceptedDelivery)])
            examined, promoted = await self._promote(examined, known)
            places = promoted | await self._put([one for one in examined if isinstance(one, AcceptedDelivery)], known)
        return Prepared(
            kind=kind,
            deliveries=tuple(deliveries),
            batch=batch_of(kind, examined, places, generation=generation),
            refused=tuple(one for one in examined if isinstance(one, RefusedDelivery)),
            claims=tuple(_claim(one) for one in examined if isinstance(one, AcceptedDelivery) and _claim(one)),
            body_bytes=sum(one.size_bytes for one in examined if isinstance(one, AcceptedDelivery)),
        )

    async def commit(self, prepared: Prepared) -> CommitResult:
        """Write the rows of a batch in one transaction; where its objects were collected, put them again before."""
        latest = prepared

        async def written() -> CommitResult:
            nonlocal latest
            try:
                return await self._catalog.commit(latest.batch)
            except BlobsCollectedError:
                latest = await self.prepare(prepared.kind, prepared.deliveries)
                raise

        with metrics.worker_step_seconds.labels(Step.CATALOG).time():
            return await self._retry(written)

    async def discard(self, prepared: Prepared) -> None:
        """Delete what was staged for a committed batch; what a crash leaves behind is collected later."""
        for claim in prepared.claims:
            await self._retry(partial(self._claims.discard, claim))

    async def _where_they_stood(self, deliveries: Sequence[ConsumedMessage]) -> Sequence[ConsumedMessage]:
        """Take messages that were published again for what they are."""
        ids = redrives_in(deliveries)
        if not ids:
            return deliveries
        originals = await self._retry(lambda: self._catalog.originals(ids))
        return [as_original(delivery, originals) for delivery in deliveries]

    async def _known(self, accepted: Sequence[AcceptedDelivery]) -> frozenset[str]:
        digests = sorted({bytes.fromhex(one.digest) for one in accepted})
        if not digests:
            return frozenset()
        known = await self._retry(lambda: self._catalog.known_blobs(digests))
        return frozenset(digest.hex() for digest in known)

    async def _promote(
        self, examined: list[AcceptedDelivery | RefusedDelivery], known: Container[str]
    ) -> tuple[list[AcceptedDelivery | RefusedDelivery], dict[str, StoredAt]]:
        """Promote staged bodies; those that are not what they should be turn into refusals."""
        places: dict[str, StoredAt] = {}
        refusals: dict[int, RefusedDelivery] = {}
        claims = plan((one for one in examined if isinstance(one, AcceptedDelivery)), known).claimed
        for claimed, refused in zip(claims, await _all([self._promoted(one) for one in claims]), strict=True):
            if refused is None:
                places[claimed.digest] = StoredAt(blob_key(claimed.digest))
            else:
                refusals[id(claimed)] = refused
        return [refusals.get(id(one), one) for one in examined], places

    async def _promoted(self, claimed: AcceptedDelivery) -> RefusedDelivery | None:
        assert isinstance(claimed.event, Frame | Clip)
        try:
            async with self._promotions:
                reached(CrashPoint.BEFORE_PUT)
                moved = partial(self._moved, kind_of(claimed.event))
                head = await self._retry(lambda: self._claims.promote(claimed, HEAD_BYTES, moved))
                reached(CrashPoint.AFTER_PUT)
            check_media(claimed.event, head)
        except ClaimMissingError as fault:
            return refuse(claimed, RejectCode.CLAIM_MISSING, fault.what)
        except ClaimMismatchError as fault:
            return refuse(claimed, RejectCode.DIGEST_MISMATCH, fault.what)
        except RejectedError as rejected:
            return refuse(claimed, rejected.code, rejected.reason)
        return None

    async def _put(self, accepted: Sequence[AcceptedDelivery], known: Container[str]) -> dict[str, StoredAt]:
        todo = plan(accepted, known)
        puts = [self._put_alone(one) for one in todo.alone]
        if todo.packed:
            puts.append(self._put_packed(todo.packed))
        places: dict[str, StoredAt] = {}
        for put in await _all(puts):
            places |= put
        return places

    async def _put_alone(self, one: AcceptedDelivery) -> dict[str, StoredAt]:
        assert one.body is not None
        body, key = one.body, blob_key(one.digest)
        await self._put_object(key, body, one.media_type)
        self._moved(kind_of(one.event))
        return {one.digest: StoredAt(key)}

    async def _put_packed(self, some: Sequence[AcceptedDelivery]) -> dict[str, StoredAt]:
        tar, places = await asyncio.to_thread(pack.build, [(one.digest, one.body or b"") for one in some])
        key = pack_key(await asyncio.to_thread(sha256_hex, tar))
        await self._put_object(key, tar, pack.MEDIA_TYPE)
        self._moved(kind_of(some[0].event))
        return {one.digest: StoredAt(key, offset) for one, (offset, _) in zip(some, places, strict=True)}

    async def _put_object(self, key: str, data: bytes, media_type: str) -> None:
        async with self._puts:
            reached(CrashPoint.BEFORE_PUT)
            await self._retry(lambda: self._blobs.put(key, data, media_type=media_type))
            reached(CrashPoint.AFTER_PUT)

    def _moved(self, kind: Kind) -> None:
        self.steps[kind] += 1


def _examine_all(
    kind: Kind, deliveries: Sequence[ConsumedMessage], now_us: int
) -> list[AcceptedDelivery | RefusedDelivery]:
    return [examine(kind, delivery, now_us, reached) for delivery in deliveries]


def _claim(one: AcceptedDelivery) -> str:
    return (one.event.claim or "") if isinstance(one.event, Frame | Clip) and one.body is None else ""


async def _all(steps: Sequence[Awaitable[T]]) -> list[T]:
    """Wait for every step; the first that fails cancels the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_one(step)) for step in steps]
    return [task.result() for task in tasks]


async def _one(step: Awaitable[T]) -> T:
    return await step


def report(prepared: Prepared, committed: CommitResult, started_s: float) -> None:
    """Count and log what became of a batch."""
    kind = prepared.kind.value
    duplicates = committed.duplicates
    metrics.worker_deliveries_total.labels(kind, "stored").inc(len(committed.new_records))
    metrics.worker_deliveries_total.labels(kind, "duplicate").inc(duplicates)
    metrics.worker_deliveries_total.labels(kind, "rejected").inc(len(prepared.refused))
    metrics.worker_bytes_total.labels(kind).inc(prepared.body_bytes)
    by_code = Counter(refused.code for refused in prepared.refused)
    for code, count in by_code.items():
        metrics.worker_rejected_total.labels(kind, code.value).inc(count)
        first = next(refused for refused in prepared.refused if refused.code is code)
        at = first.delivery
        # One line for each code of a batch: a source gone mad must not fill the disk as well.
        get_log().warning(
            Action.REJECTED,
            code=code.value,
            count=count,
            reason=first.reason,
            topic=at.topic,
            partition=at.partition,
            offset=at.offset,
        )
    get_log().debug(
        Action.BATCH_STORED,
        kind=kind,
        stored=len(committed.new_records),
        duplicates=duplicates,
        rejected=len(prepared.refused),
        seconds=round(time.monotonic() - started_s, 3),
    )
