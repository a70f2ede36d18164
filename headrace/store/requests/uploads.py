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
    """A new upload; `metadata` is a JSON object."""

    upload_id: UUID
    actor: str
    site: str
    source_id: str
    length_bytes: int
    metadata: str


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload and its state: 'open', 'joining' while it is assembled, then 'done' or 'failed'."""

    upload_id: UUID
    actor: str
    site: str
    source_id: str
    length_bytes: int
    offset_bytes: int
    metadata: str
    state: str
    code: str | None
    reason: str | None
    is_held: bool
    is_expired: bool
    expires_at_s: float


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

    async def part_count(self, upload_id: UUID) -> int:
        """Return the number of parts."""
        async with borrowed(self._pool, self._dsn) as connection:
            return int(await connection.fetchval(self._sql["part_count"], upload_id))

    async def parts(self, upload_id: UUID) -> list[UploadPart]:
        """Return the parts in order."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["parts"], upload_id)
        return [UploadPart(*row) for row in rows]

    async def finish(self, upload_id: UUID, by: UUID, *, digest: str, position: tuple[str, int, int]) -> bool:
        """Record that the file was published as the message at `position`; its parts are no longer needed."""
        return await self._whether("finish", upload_id, by, digest, *position)

    async def fail(self, upload_id: UUID, by: UUID, code: str, reason: str) -> bool:
        """Record that the file can never be ingested; its parts are no longer needed."""
        return await self._whether("fail", upload_id, by, code, reason)

    async def delete(self, upload_id: UUID) -> bool:
        """Delete an upload in any state; return False if it is being assembled or does not exist."""
        return await self._whether("delete", upload_id)

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

    async def _whether(self, statement: str, *values: object) -> bool:
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchval(self._sql[statement], *values) is not None

    async def _ids(self, statement: str, limit: int) -> list[UUID]:
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql[statement], limit)
        return [row[0] for row in rows]
