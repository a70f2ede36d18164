"""Moves bodies between the blob store and the archive, one object at a time.

headrace/store/catalog/archives.py explains the order of the steps.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from typing import assert_never

from headrace.batch.archive.plan import PackedMove, SingleMove, delay_s, plan_objects
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.digest import blob_key, pack_key, sha256_hex
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import BULK_BYTES_MIN, Blobs
from headrace.store.blobs.storage_class import StorageClassStore
from headrace.store.blobs.verified_read import hash_of, read_verified
from headrace.store.catalog.archives import Archives, Location, MovedBodies
from headrace.store.errors import BlobCorruptError, BlobMissingError

CHUNK_BYTES = 8 * 1024 * 1024


@dataclass
class ArchiveReport:
    """What a run moved, or what a dry run would move; `failed` maps the digests that did not move to an error code.

    `waiting` counts the bodies that their storage class has not restored yet.
    """

    dry_run: bool = False
    bodies: int = 0
    body_bytes: int = 0
    waiting: int = 0
    objects_written: int = 0
    objects_removed: int = 0
    announcements_removed: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class Throttle:
    """Limits reads to a number of bytes per second."""

    def __init__(
        self,
        bytes_per_s: int,
        *,
        now_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._bytes_per_s = bytes_per_s
        self._now_s = now_s
        self._sleep = sleep
        self._started_s = now_s()
        self._read_bytes = 0

    async def acquire(self, size_bytes: int) -> None:
        """Wait until the bytes read so far are within the limit, then count these."""
        if wait_s := delay_s(self._read_bytes, self._now_s() - self._started_s, self._bytes_per_s):
            await self._sleep(wait_s)
        self._read_bytes += size_bytes


@dataclass(frozen=True, slots=True)
class Route:
    """Which way bodies move; `storage_class` is the archive where its store has storage classes."""

    stores: Mapping[Location, Blobs]
    to: Location
    storage_class: StorageClassStore | None = None

    @property
    def source(self) -> Blobs:
        """The store that bodies are read from."""
        return self.stores[Location.STORE if self.to is Location.ARCHIVE else Location.ARCHIVE]

    @property
    def target(self) -> Blobs:
        """The store that bodies are written to."""
        return self.stores[self.to]


class BodyMover:
    """Moves bodies along a route, deletes the objects they leave behind, and counts both in `report`."""

    def __init__(self, archives: Archives, route: Route, *, throttle: Throttle, report: ArchiveReport) -> None:
        self._archives = archives
        self._route = route
        self._source = route.source
        self._target = route.target
        self._throttle = throttle
        self._report = report

    async def run(self, bodies: Sequence[BlobLocation]) -> None:
        """Move bodies; missing and corrupt ones stay in place and are named in the report.

        Raises:
            HeadraceError: a service is unreachable, or the target returns other bytes than were written.
        """
        for planned in plan_objects(await self._readable(bodies)):
            match planned:
                case SingleMove(body):
                    await self._move_single(body)
                case PackedMove(packed):
                    await self._move_packed(packed)
                case _:
                    assert_never(planned)
        # Once per page: many bodies of it leave the same pack.
        await self.delete_stale_objects()

    async def delete_stale_objects(self) -> None:
        """Delete, from both stores, the objects that moves have left behind and no row references."""
        for stale in await self._archives.leavings():
            if stale.is_free:
                reached(CrashPoint.MOVE_BEFORE_DELETE)
                await self._route.stores[stale.place].delete(stale.store_key)
                reached(CrashPoint.MOVE_AFTER_DELETE)
                self._report.objects_removed += 1
            await self._archives.settled(stale)

    async def _readable(self, bodies: Sequence[BlobLocation]) -> Sequence[BlobLocation]:
        """Return the bodies that can be read now, and request the others from their storage class."""
        storage_class = self._route.storage_class
        if storage_class is None or self._route.to is Location.ARCHIVE:
            return bodies
        is_readable: dict[str, bool] = {}
        for key in {body.store_key for body in bodies}:
            try:
                is_readable[key] = await storage_class.is_awake(key)
            except BlobMissingError:
                is_readable[key] = True  # reading it reports the missing object
        self._report.waiting += sum(not is_readable[body.store_key] for body in bodies)
        return [body for body in bodies if is_readable[body.store_key]]

    async def _move_single(self, body: BlobLocation) -> None:
        digest = body.digest.hex()
        key = blob_key(digest)
        reached(CrashPoint.MOVE_BEFORE_PUT)
        await self._archives.expect(self._route.to, key)
        try:
            await self._write(key, body, digest)
        except (BlobMissingError, BlobCorruptError) as error:
            self._report.failed[digest] = error.code
            return
        reached(CrashPoint.MOVE_AFTER_PUT)
        await self._verify(key, digest, lambda: self._write(key, body, digest, overwrite=True))
        await self._record_move(MovedBodies(key, (body.digest,), (None,), (body.store_key,)), body.size_bytes)

    async def _write(self, key: str, body: BlobLocation, digest: str, *, overwrite: bool = False) -> None:
        if body.size_bytes < BULK_BYTES_MIN:
            await self._throttle.acquire(body.size_bytes)
            data = await read_verified(
                self._source, body.store_key, offset=body.store_offset, size_bytes=body.size_bytes, digest=digest
            )
            await (self._target.replace if overwrite else self._target.put)(key, data, media_type=body.media_type)
            return
        # Larger than one request: hash it first, so that no corrupt body is discovered in the middle of an upload.
        source_hash = sha256()
        async with aclosing(self._read_chunks(body.store_key)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(source_hash.update, chunk)
        if source_hash.hexdigest() != digest:
            raise BlobCorruptError(
                body.store_key, f"its SHA-256 is {source_hash.hexdigest()}", where=self._source.where
            )
        await self._target.put_stream(key, self._read_chunks(body.store_key), media_type=body.media_type)

    async def _verify(self, key: str, digest: str, write_again: Callable[[], Awaitable[None]]) -> None:
        """Read a written object back; an object that already existed under the key may hold other bytes."""
        if await hash_of(self._target, key) == digest:
            return
        await write_again()
        if await hash_of(self._target, key) != digest:
            raise BlobCorruptError(key, "the bytes read differ from the bytes written", where=self._target.where)

    async def _read_chunks(self, key: str) -> AsyncGenerator[bytes]:
        async with aclosing(self._source.stream(key, CHUNK_BYTES)) as chunks:
            async for chunk in chunks:
                await self._throttle.acquire(len(chunk))
                yield chunk

    async def _move_packed(self, bodies: Sequence[BlobLocation]) -> None:
        data_by_digest = await self._read_bodies(bodies)
        intact = [body for body in bodies if body.digest in data_by_digest]
        if not intact:
            return
        members = [(body.digest.hex(), data_by_digest[body.digest]) for body in intact]
        tar, places = await asyncio.to_thread(pack.build, members)
        digest = await asyncio.to_thread(sha256_hex, tar)
        key = pack_key(digest)
        reached(CrashPoint.MOVE_BEFORE_PUT)
        await self._archives.expect(self._route.to, key)
        await self._target.put(key, tar, media_type=pack.MEDIA_TYPE)
        reached(CrashPoint.MOVE_AFTER_PUT)
        # The tar consists of verified bodies: if it hashes to its name, so does each of them.
        await self._verify(key, digest, lambda: self._target.replace(key, tar, media_type=pack.MEDIA_TYPE))
        moved = MovedBodies(
            key,
            tuple(body.digest for body in intact),
            tuple(offset for offset, _ in places),
            tuple(sorted({body.store_key for body in intact})),
        )
        await self._record_move(moved, sum(body.size_bytes for body in intact))

    async def _read_bodies(self, bodies: Sequence[BlobLocation]) -> dict[bytes, bytes]:
        """Return the intact bodies by digest; reads each object once."""
        data_by_digest: dict[bytes, bytes] = {}
        for key, group in groupby(bodies, key=lambda body: body.store_key):
            members = list(group)
            await self._throttle.acquire(sum(body.size_bytes for body in members))
            first = min(body.store_offset or 0 for body in members)
            end = max((body.store_offset or 0) + body.size_bytes for body in members)
            try:
                data = await self._source.get(key, offset=first, length=end - first)
            except BlobMissingError as error:
                self._report.failed |= {body.digest.hex(): error.code for body in members}
                continue
            for body in members:
                start = (body.store_offset or 0) - first
                part = data[start : start + body.size_bytes]
                if sha256(part).digest() == body.digest:
                    data_by_digest[body.digest] = part
                else:
                    self._report.failed[body.digest.hex()] = "blob_corrupt"
        return data_by_digest

    async def _record_move(self, moved: MovedBodies, body_bytes: int) -> None:
        if self._route.storage_class is not None and self._route.to is Location.ARCHIVE:
            # Only after verification: some storage classes cannot be read back at once.
            await self._route.storage_class.freeze(moved.store_key)
        reached(CrashPoint.MOVE_BEFORE_NOTE)
        await self._archives.note(moved, self._route.to)
        reached(CrashPoint.MOVE_AFTER_NOTE)
        self._report.objects_written += 1
        self._report.bodies += len(moved.digests)
        self._report.body_bytes += body_bytes
