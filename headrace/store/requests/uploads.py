"""Resumable uploads: how far each has come, in which objects, and who writes to it now.

Any gateway may go on with any upload, because all that is known of it stands here and its bytes are in the store.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.store.postgres import borrowed, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

SWEEP_LOCK = 0x48_52_53_57  # "HRSW": held by the one gateway that clears away what is over


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
    """An upload as it stands: 'open', 'joining' once every byte is there, then 'done', or 'failed' with a code."""

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
    is_over: bool
    expires_at_s: float


@dataclass(frozen=True, slots=True)
class UploadPart:
    """An object that holds a stretch of an upload."""

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

    async def add(self, new: NewUpload, hours: float) -> float:
        """Keep a new upload for so many hours; returns until when, as Unix time."""
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
            )
        return float(expires_at_s)

    async def get(self, upload_id: UUID) -> Upload | None:
        """Return an upload; None where there is none."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["one"], upload_id)
        return None if row is None else Upload(*row)

    async def hold(self, upload_id: UUID, by: UUID, hold_s: float) -> Upload | None:
        """Take an unfinished upload for so many seconds; None where there is none, or somebody else has it."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["hold"], upload_id, by, hold_s)
        return None if row is None else Upload(*row)

    async def renew(self, upload_id: UUID, by: UUID, hold_s: float) -> bool:
        """Keep it for so many seconds more; False where somebody else has it by now."""
        return await self._whether("renew", upload_id, by, hold_s)

    async def release(self, upload_id: UUID, by: UUID) -> None:
        """Give it back; may be repeated."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["release"], upload_id, by)

    async def record(self, upload_id: UUID, by: UUID, parts: Sequence[UploadPart]) -> bool:
        """Count parts that follow each other; False, and nothing is changed, where the writer may not or the first one
        does not follow what is there.
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

    async def parts(self, upload_id: UUID) -> list[UploadPart]:
        """Return the parts in their order."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["parts"], upload_id)
        return [UploadPart(*row) for row in rows]

    async def finish(self, upload_id: UUID, by: UUID, *, digest: str, topic: str, partition: int, offset: int) -> bool:
        """Note that the file was published; its parts are not needed any more."""
        return await self._whether("finish", upload_id, by, digest, topic, partition, offset)

    async def fail(self, upload_id: UUID, by: UUID, code: str, reason: str) -> bool:
        """Note that the file can never be ingested; its parts are not needed any more."""
        return await self._whether("fail", upload_id, by, code, reason)

    async def remove(self, upload_id: UUID) -> bool:
        """Forget an upload in any state; False where its file is being joined now, or there is none."""
        return await self._whether("remove", upload_id)

    async def remove_over(self, upload_id: UUID) -> bool:
        """Forget an upload whose time is over; False where somebody writes to it after all."""
        return await self._whether("remove_over", upload_id)

    async def over(self, limit: int) -> list[UUID]:
        """Return uploads whose time is over and to which nobody writes."""
        return await self._ids("over", limit)

    async def unjoined(self, limit: int) -> list[UUID]:
        """Return uploads of which every byte is there, and that nobody joins."""
        return await self._ids("unjoined", limit)

    @asynccontextmanager
    async def leading(self) -> AsyncIterator[bool]:
        """Be the one that clears away, where nobody else is; the lock goes with the connection."""
        async with borrowed(self._pool, self._dsn) as connection:
            first = bool(await connection.fetchval(self._sql["lead"], SWEEP_LOCK))
            yield first
            if first:
                await connection.execute(self._sql["unlead"], SWEEP_LOCK)

    async def _whether(self, statement: str, *values: object) -> bool:
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchval(self._sql[statement], *values) is not None

    async def _ids(self, statement: str, limit: int) -> list[UUID]:
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql[statement], limit)
        return [row[0] for row in rows]
