"""Resumable uploads: their offset, their parts, and the lock of the current writer.

Any gateway may continue any upload, because its state is here and its bytes are in the store.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.store.locks import SWEEP_LOCK
from headrace.store.postgres import borrowed, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUpload:
    """A new upload; `metadata` is a JSON object. `length_bytes` is None while the client does not know it."""

    upload_id: UUID
    actor: str
    site: str
    source_id: str
    length_bytes: int | None
    metadata: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload and its state: 'open', 'joining' while it is assembled, then 'done' or 'failed'.

    `concat` is the client's Upload-Concat. A partial upload is 'open' until a final one was made of it, then 'done'.
    """

    upload_id: UUID
    actor: str
    site: str
    source_id: str
    length_bytes: int | None
    offset_bytes: int
    metadata: str
    concat: str | None
    state: str
    code: str | None
    reason: str | None
    is_held: bool
    is_expired: bool
    expires_at_s: float

    @property
    def is_partial(self) -> bool:
        """Whether it is a part of a final upload, and no file by itself."""
        return self.concat == "partial"

    @property
    def is_final(self) -> bool:
        """Whether it was made of partial uploads."""
        return self.concat is not None and not self.is_partial


@dataclass(frozen=True, slots=True)
class UploadPart:
    """An object with a range of an upload."""

    offset_bytes: int
    size_bytes: int
    store_key: str


class Uploads:
    """The tables of uploads. Raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("uploads")

    async def add(self, new: NewUpload, hours: float, *, open_max: int) -> float | None:
        """Insert an upload that expires after `hours`; return the expiry as Unix time.

        Return None, without a change, if the actor has `open_max` unfinished uploads.
        """
        async with borrowed(self._pool, self._dsn) as connection:
            expires_at_s = await connection.fetchval(
                self._sql["add"],
                new.upload_id,
                new.actor,
                new.site,
                new.source_id,
                new.length_bytes,
                new.metadata,
                hours,
                open_max,
            )
        return None if expires_at_s is None else float(expires_at_s)

    async def add_final(self, new: NewUpload, partials: Sequence[UUID], hours: float, *, open_max: int) -> bool:
        """Insert an upload in the state 'joining' whose parts are those of complete partial uploads, in that order.

        Return False, without a change, if a partial upload is not complete any more or the actor has `open_max` uploads
        in this state. May be repeated.
        """
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            complete = await connection.fetch(self._sql["complete_partials"], [*partials])
            if len(complete) != len(set(partials)):
                return False
            values = new.upload_id, new.actor, new.site, new.source_id, new.length_bytes, new.metadata, hours, open_max
            if await connection.fetchval(self._sql["add_final"], *values) is not None:
                await connection.execute(self._sql["copy_parts"], new.upload_id, [*partials])
                await connection.execute(self._sql["keep_partials"], new.upload_id, [*partials])
                return True
            return await connection.fetchval(self._sql["lock"], new.upload_id) is not None

    async def get(self, upload_id: UUID) -> Upload | None:
        """Return an upload, or None."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["upload"], upload_id)
        return None if row is None else Upload(*row)

    async def hold(self, upload_id: UUID, by: UUID, hold_s: float) -> Upload | None:
        """Lock an unfinished upload for `hold_s`; return None if there is none or another writer holds it."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["hold"], upload_id, by, hold_s)
        return None if row is None else Upload(*row)

    async def renew(self, upload_id: UUID, by: UUID, hold_s: float) -> bool:
        """Extend the lock by `hold_s`; return False if another writer holds it."""
        return await self._whether("renew", upload_id, by, hold_s)

    async def release(self, upload_id: UUID, by: UUID) -> None:
        """Release the lock; may be repeated."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["release"], upload_id, by)

    async def record(self, upload_id: UUID, by: UUID, parts: Sequence[UploadPart]) -> bool:
        """Append consecutive parts; return False, without a change, if the writer lost the lock or the first part does
        not begin at the upload's offset.
        """
        return await self._whether(
            "record",
            upload_id,
            by,
            parts[0].offset_bytes,
            sum(part.size_bytes for part in parts),
            [part.offset_bytes for part in parts],
            [part.size_bytes for part in parts],
            [part.store_key for part in parts],
        )

    async def set_length(self, upload_id: UUID, by: UUID, length_bytes: int) -> bool:
        """Set a deferred length; return False, without a change, if the lock was lost or it is set or too short."""
        return await self._whether("set_length", upload_id, by, length_bytes)

    async def part_count(self, upload_id: UUID) -> int:
        """Return the number of parts."""
        async with borrowed(self._pool, self._dsn) as connection:
            return int(await connection.fetchval(self._sql["part_count"], upload_id))

    async def parts(self, upload_id: UUID) -> list[UploadPart]:
        """Return the parts in order."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["parts"], upload_id)
        return [UploadPart(*row) for row in rows]

    async def finish(self, upload_id: UUID, by: UUID, *, digest: str, position: tuple[str, int, int]) -> list[UUID]:
        """Record that the file was published as the message at `position`.

        Return the uploads whose objects are no longer needed: it and its partial uploads; none if the lock was lost.
        """
        return await self._end("finish", upload_id, by, digest, *position)

    async def fail(self, upload_id: UUID, by: UUID, code: str, reason: str) -> list[UUID]:
        """Record that the file can never be ingested; return as `finish`."""
        return await self._end("fail", upload_id, by, code, reason)

    async def delete(self, upload_id: UUID) -> bool:
        """Delete an upload in any state.

        Return False if it or a final upload that is made of it is being assembled, or it does not exist.
        """
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            await connection.execute(self._sql["lock"], upload_id)
            return await connection.fetchval(self._sql["delete"], upload_id) is not None

    async def delete_expired(self, upload_id: UUID) -> bool:
        """Delete an expired upload; return False if a writer holds it."""
        return await self._whether("delete_expired", upload_id)

    async def expired(self, limit: int) -> list[UUID]:
        """Return expired uploads without a writer."""
        return await self._ids("expired", limit)

    async def unassembled(self, limit: int) -> list[UUID]:
        """Return complete uploads that no gateway is assembling."""
        return await self._ids("unassembled", limit)

    @asynccontextmanager
    async def sweep_lock(self) -> AsyncIterator[bool]:
        """Try to acquire SWEEP_LOCK; yield whether it was acquired. The lock ends with the connection."""
        async with borrowed(self._pool, self._dsn) as connection:
            is_acquired = bool(await connection.fetchval(self._sql["try_lock"], SWEEP_LOCK))
            yield is_acquired
            if is_acquired:
                await connection.execute(self._sql["unlock"], SWEEP_LOCK)

    async def _end(self, statement: str, upload_id: UUID, *values: object) -> list[UUID]:
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            partials = [row[0] for row in await connection.fetch(self._sql["partials_of"], upload_id)]
            if await connection.fetchval(self._sql[statement], upload_id, *values) is None:
                return []
            released = await connection.fetch(self._sql["release_partials"], upload_id, partials) if partials else []
            return [upload_id, *(row[0] for row in released)]

    async def _whether(self, statement: str, *values: object) -> bool:
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchval(self._sql[statement], *values) is not None

    async def _ids(self, statement: str, limit: int) -> list[UUID]:
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql[statement], limit)
        return [row[0] for row in rows]
