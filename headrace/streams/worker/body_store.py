"""The bodies of a batch, made durable: staged ones promoted, the others put, several at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from headrace.runtime.crash_points import CrashPoint, Reached
from headrace.schemas.catalog_rows import SightingKey
from headrace.schemas.digest import blob_key, pack_key, record_id, sha256_hex
from headrace.schemas.events import Clip, Frame, Kind
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import check_media
from headrace.store.blobs import pack
from headrace.store.blobs.staging import StagedBody
from headrace.store.errors import ClaimMismatchError, ClaimMissingError
from headrace.streams.core.batch_plan import StoredAt, StorePlan
from headrace.streams.core.examine import AcceptedDelivery, RejectedDelivery, reject
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.retry import Retry

PUTS_AT_ONCE_MAX = 16  # of one process: MinIO on two cores is saturated by about as many
# Below it, a thread would cost more than it saves: each turn of the interpreter's lock takes up to 5 ms.
INLINE_BYTES_MAX = 4 * 1024 * 1024
PROMOTIONS_AT_ONCE_MAX = 4  # each holds two chunks of 4 MiB

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredBodies:
    """Where each body was put, by its digest, and the messages whose staged body is not what they declare."""

    stored_at: dict[str, StoredAt]
    rejected: tuple[RejectedDelivery, ...]


class BodyStore:
    """Stores bodies. `steps` counts, for each kind, the parts that were stored: the watchdog's sign of progress."""

    def __init__(self, ports: IngestPorts, retry: Retry, reached: Reached) -> None:
        """`reached` is called at each crash point."""
        self._blobs = ports.blobs
        self._catalog = ports.catalog
        self._staged = ports.staged
        self._retry = retry
        self._reached = reached
        self._puts = asyncio.Semaphore(PUTS_AT_ONCE_MAX)
        self._promotions = asyncio.Semaphore(PROMOTIONS_AT_ONCE_MAX)
        self.steps = dict.fromkeys(Kind, 0)

    async def store(self, kind: Kind, plan: StorePlan) -> StoredBodies:
        """Promote the staged bodies of a plan, then put the others; may be repeated."""
        outcomes = await _gather([self._promote(kind, delivery) for delivery in plan.claimed])
        stored_at = {
            delivery.digest: outcome
            for delivery, outcome in zip(plan.claimed, outcomes, strict=True)
            if isinstance(outcome, StoredAt)
        }
        puts = [self._put_alone(kind, delivery) for delivery in plan.alone]
        if plan.packed:
            puts.append(self._put_packed(kind, plan.packed))
        for stored in await _gather(puts):
            stored_at |= stored
        return StoredBodies(stored_at, tuple(outcome for outcome in outcomes if isinstance(outcome, RejectedDelivery)))

    async def _promote(self, kind: Kind, delivery: AcceptedDelivery) -> StoredAt | RejectedDelivery | None:
        """Promote a staged body; return where it was put, or a rejection if it is not what its message declares.

        Returns None if the body is gone because an event of the same source that claimed it is already committed.
        """
        assert isinstance(delivery.event, Frame | Clip)
        assert delivery.claim is not None
        staged = StagedBody(delivery.claim, delivery.digest, delivery.size_bytes)
        promote = partial(self._staged.promote, staged, moved=partial(self._count, kind))
        try:
            async with self._promotions:
                self._reached(CrashPoint.BEFORE_PUT)
                probe = await self._retry(promote)
                self._reached(CrashPoint.AFTER_PUT)
            check_media(delivery.event, probe)
        except ClaimMissingError as fault:
            # A redelivery needs no body. That the bytes exist proves nothing: they may be those of another source.
            if await self._retry(partial(self._catalog.has_sighting, _sighting_key(kind, delivery))):
                return None
            return reject(delivery, RejectCode.CLAIM_MISSING, fault.what)
        except ClaimMismatchError as fault:
            return reject(delivery, RejectCode.DIGEST_MISMATCH, fault.what)
        except RejectedError as rejected:
            return reject(delivery, rejected.code, rejected.reason)
        return StoredAt(blob_key(delivery.digest))

    async def _put_alone(self, kind: Kind, delivery: AcceptedDelivery) -> dict[str, StoredAt]:
        assert delivery.body is not None
        key = blob_key(delivery.digest)
        await self._put(key, delivery.body, delivery.media_type)
        self._count(kind)
        return {delivery.digest: StoredAt(key)}

    async def _put_packed(self, kind: Kind, deliveries: Sequence[AcceptedDelivery]) -> dict[str, StoredAt]:
        members = [(delivery.digest, delivery.body or b"") for delivery in deliveries]
        size_bytes = sum(len(body) for _, body in members)
        tar, spans = await in_thread_if_large(size_bytes, partial(pack.build, members))
        key = pack_key(await in_thread_if_large(len(tar), partial(sha256_hex, tar)))
        await self._put(key, tar, pack.MEDIA_TYPE)
        self._count(kind)
        return {delivery.digest: StoredAt(key, offset) for delivery, (offset, _) in zip(deliveries, spans, strict=True)}

    async def _put(self, key: str, data: bytes, media_type: str) -> None:
        async with self._puts:
            self._reached(CrashPoint.BEFORE_PUT)
            await self._retry(lambda: self._blobs.put(key, data, media_type=media_type))
            self._reached(CrashPoint.AFTER_PUT)

    def _count(self, kind: Kind) -> None:
        self.steps[kind] += 1


def _sighting_key(kind: Kind, delivery: AcceptedDelivery) -> SightingKey:
    return SightingKey(record_id(kind, delivery.digest), delivery.event.site, delivery.event.source_id)


async def in_thread_if_large(size_bytes: int, call: Callable[[], T]) -> T:
    """Call a function of so many bytes on the event loop, or in a thread where it would block it for too long."""
    return call() if size_bytes <= INLINE_BYTES_MAX else await asyncio.to_thread(call)


async def _gather(steps: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Run every step and return the results in order; the first that fails cancels the others."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(step) for step in steps]
    return [task.result() for task in tasks]
