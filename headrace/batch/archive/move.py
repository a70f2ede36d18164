"""Bodies from one place to the other, one object at a time, in the steps that headrace/store/catalog/archives.py
argues for.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from hashlib import sha256
from itertools import groupby
from typing import assert_never

from headrace.batch.archive.plan import PackedMove, SingleMove, objects_of
from headrace.batch.archive.report import ArchiveReport
from headrace.batch.archive.throttle import Throttle
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.schemas.catalog_rows import BlobPlace
from headrace.schemas.digest import blob_key, pack_key, sha256_hex
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import BULK_BYTES_MIN, Blobs
from headrace.store.blobs.storage_class import StorageClassStore
from headrace.store.blobs.verified_read import hash_of, read_verified
from headrace.store.catalog.archives import Archives, Location, MovedBodies
from headrace.store.errors import BlobCorruptError, BlobMissingError

CHUNK_BYTES = 8 * 1024 * 1024


class Move:
    """Moves bodies to a place, and removes what nothing names any more; `report` is told what was done."""

    def __init__(
        self,
        archives: Archives,
        places: Mapping[Location, Blobs],
        to: Location,
        *,
        cold: StorageClassStore | None,
        pace: Throttle,
        report: ArchiveReport,
    ) -> None:
        """Move to a place of the two; `cold` is the archive where its store has storage classes."""
        self._archives = archives
        self._places = places
        self._to = to
        self._source = places[Location.STORE if to is Location.ARCHIVE else Location.ARCHIVE]
        self._target = places[to]
        self._cold = cold
        self._pace = pace
        self._report = report

    async def run(self, bodies: Sequence[BlobPlace]) -> None:
        """Move bodies; what is lost or damaged stays where it is, and is named in the report.

        Raises:
            HeadraceError: a service is away, or the target does not keep what is written to it.
        """
        for one in objects_of(await self._readable(bodies)):
            match one:
                case SingleMove(body):
                    await self._alone(body)
                case PackedMove(some):
                    await self._packed(some)
                case _:
                    assert_never(one)
        # Once for many: to find out that nothing names a pack takes a look at every blob.
        await self.remove_leavings()

    async def remove_leavings(self) -> None:
        """Remove, in both places, what moves have left and no row names."""
        for leaving in await self._archives.leavings():
            if leaving.is_free:
                reached(CrashPoint.MOVE_BEFORE_DELETE)
                await self._places[leaving.place].delete(leaving.store_key)
                reached(CrashPoint.MOVE_AFTER_DELETE)
                self._report.objects_removed += 1
            await self._archives.settled(leaving)

    async def _readable(self, bodies: Sequence[BlobPlace]) -> Sequence[BlobPlace]:
        """Return the bodies that can be read now; those of a storage class that takes its time are asked for."""
        if self._cold is None or self._to is Location.ARCHIVE:
            return bodies
        awake: dict[str, bool] = {}
        for key in {body.store_key for body in bodies}:
            try:
                awake[key] = await self._cold.is_awake(key)
            except BlobMissingError:
                awake[key] = True  # reading it will name what is lost
        self._report.waiting += sum(not awake[body.store_key] for body in bodies)
        return [body for body in bodies if awake[body.store_key]]

    async def _alone(self, body: BlobPlace) -> None:
        digest = body.digest.hex()
        key = blob_key(digest)
        reached(CrashPoint.MOVE_BEFORE_PUT)
        await self._archives.expect(self._to, key)
        try:
            await self._write(key, body, digest)
        except (BlobMissingError, BlobCorruptError) as error:
            self._report.failed[digest] = error.code
            return
        reached(CrashPoint.MOVE_AFTER_PUT)
        await self._verify(key, digest, lambda: self._write(key, body, digest, anew=True))
        await self._note(MovedBodies(key, (body.digest,), (None,), (body.store_key,)), body.size_bytes)

    async def _write(self, key: str, body: BlobPlace, digest: str, *, anew: bool = False) -> None:
        if body.size_bytes < BULK_BYTES_MIN:
            await self._pace.take(body.size_bytes)
            data = await read_verified(
                self._source, body.store_key, offset=body.store_offset, size_bytes=body.size_bytes, digest=digest
            )
            await (self._target.replace if anew else self._target.put)(key, data, media_type=body.media_type)
            return
        # Larger than one request: verified first, so that no error has to come out of the middle of an upload.
        found = sha256()
        async with aclosing(self._chunks(body.store_key)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(found.update, chunk)
        if found.hexdigest() != digest:
            raise BlobCorruptError(body.store_key, f"its SHA-256 is {found.hexdigest()}", where=self._source.where)
        await self._target.put_stream(key, self._chunks(body.store_key), media_type=body.media_type)

    async def _verify(self, key: str, digest: str, write_anew: Callable[[], Awaitable[None]]) -> None:
        """Read a written object back. What is there was perhaps there before, and is not what its name says."""
        if await hash_of(self._target, key) == digest:
            return
        await write_anew()
        if await hash_of(self._target, key) != digest:
            raise BlobCorruptError(key, "what was written is not what is read", where=self._target.where)

    async def _chunks(self, key: str) -> AsyncGenerator[bytes]:
        async with aclosing(self._source.stream(key, CHUNK_BYTES)) as chunks:
            async for chunk in chunks:
                await self._pace.take(len(chunk))
                yield chunk

    async def _packed(self, bodies: Sequence[BlobPlace]) -> None:
        held = await self._read(bodies)
        there = [body for body in bodies if body.digest in held]
        if not there:
            return
        tar, places = await asyncio.to_thread(pack.build, [(one.digest.hex(), held[one.digest]) for one in there])
        digest = await asyncio.to_thread(sha256_hex, tar)
        key = pack_key(digest)
        reached(CrashPoint.MOVE_BEFORE_PUT)
        await self._archives.expect(self._to, key)
        await self._target.put(key, tar, media_type=pack.MEDIA_TYPE)
        reached(CrashPoint.MOVE_AFTER_PUT)
        # The tar was made of verified bodies: where it hashes to its name, each of them does.
        await self._verify(key, digest, lambda: self._target.replace(key, tar, media_type=pack.MEDIA_TYPE))
        moved = MovedBodies(
            key,
            tuple(one.digest for one in there),
            tuple(offset for offset, _ in places),
            tuple(sorted({one.store_key for one in there})),
        )
        await self._note(moved, sum(one.size_bytes for one in there))

    async def _read(self, bodies: Sequence[BlobPlace]) -> dict[bytes, bytes]:
        """Return the bodies that are there and whole, by digest; each object is read once."""
        held: dict[bytes, bytes] = {}
        for key, group in groupby(bodies, key=lambda body: body.store_key):
            some = list(group)
            await self._pace.take(sum(body.size_bytes for body in some))
            first = min(body.store_offset or 0 for body in some)
            end = max((body.store_offset or 0) + body.size_bytes for body in some)
            try:
                data = await self._source.get(key, offset=first, length=end - first)
            except BlobMissingError as error:
                self._report.failed |= {body.digest.hex(): error.code for body in some}
                continue
            for body in some:
                start = (body.store_offset or 0) - first
                part = data[start : start + body.size_bytes]
                if sha256(part).digest() == body.digest:
                    held[body.digest] = part
                else:
                    self._report.failed[body.digest.hex()] = "blob_corrupt"
        return held

    async def _note(self, moved: MovedBodies, body_bytes: int) -> None:
        if self._cold is not None and self._to is Location.ARCHIVE:
            # Only now: in some classes it could not have been read back.
            await self._cold.freeze(moved.store_key)
        reached(CrashPoint.MOVE_BEFORE_NOTE)
        await self._archives.note(moved, self._to)
        reached(CrashPoint.MOVE_AFTER_NOTE)
        self._report.objects_written += 1
        self._report.bodies += len(moved.digests)
        self._report.body_bytes += body_bytes
