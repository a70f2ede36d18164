"""Bodies that a site has ingested and that are not here yet: their records are in the catalog, without a blob.

The transaction that adds the blob of a digest, whoever brings it, takes its rows out and announces their records.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from uuid import UUID

from headrace.schemas.catalog_rows import TransferRow
from headrace.schemas.digest import event_id
from headrace.schemas.events import Kind
from headrace.schemas.limits import PACKED_BYTES_MAX
from headrace.schemas.topics import ingested_topic
from headrace.store.postgres import borrowed, opened_pool, row_count, statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.store.postgres import Pool, Pooled

TRANSFER_CHANNEL = "headrace_transfers"
_PRIORITY = {Kind.LDO: 0, Kind.CID: 1, Kind.FRAME: 2, Kind.CLIP: 3}


@dataclass(frozen=True, slots=True)
class Transfer:
    """A body to bring: where it is in its site's store, and whether it was asked for by hand."""

    record_id: UUID
    site: str
    store_key: str
    store_offset: int | None
    digest: bytes
    size_bytes: int
    media_type: str
    requested: bool


@dataclass(frozen=True, slots=True)
class TransferState:
    """A body that is not here yet: the site that has it, since when that is known, and what became of it so far."""

    record_id: UUID
    site: str
    size_bytes: int
    noted_at_us: int
    requested_at_us: int | None
    why: str | None


@dataclass(frozen=True, slots=True)
class WaitingBodies:
    """How much is still to be brought from a site."""

    site: str
    bodies: int
    size_bytes: int


async def add_transfers(
    connection: "Pooled", rows: Sequence[TransferRow], new: AbstractSet[UUID | tuple[UUID, str]]
) -> set[UUID | tuple[UUID, str]]:
    """Add the rows of records, or of further sites of one, that are `new`; return those whose bytes are not here."""
    added: dict[UUID, tuple[TransferRow, bool]] = {}
    for row in rows:
        is_further = (row.record_id, row.site) in new
        if is_further or row.record_id in new:
            added.setdefault(event_id(row.record_id, row.site if is_further else None), (row, is_further))
    if not added:
        return set()
    values = [
        (
            *(row.record_id, row.site, row.store_key, row.store_offset, row.digest, row.size_bytes, row.media_type),
            *(announcement, ingested_topic(row.kind).name, is_further, _PRIORITY[row.kind]),
        )
        for announcement, (row, is_further) in added.items()
    ]
    inserted = await connection.fetch(statements("transfers")["add"], *zip(*values, strict=True))
    waiting = [added[row["event_id"]] for row in inserted]
    return {(row.record_id, row.site) if is_further else row.record_id for row, is_further in waiting}


async def announce_arrived(connection: "Pooled", digests: Iterable[bytes]) -> bool:
    """Announce the records that waited for the bytes of these digests; returns whether there were any."""
    return row_count(await connection.execute(statements("transfers")["announce_arrived"], list(digests))) > 0


class Transfers:
    """The bodies that are still to be brought. Every method may be repeated.

    Raises CatalogUnavailableError or CatalogRefusedError.
    """

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("transfers")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, statement_s_max: float, connections_max: int = 1) -> "AsyncIterator[Self]":
        """Connect, and close on exit."""
        async with opened_pool(
            dsn, connections_max=connections_max, statement_s_max=statement_s_max, application="headrace transfer"
        ) as pool:
            yield cls(pool, dsn)

    async def next(self, site: str, *, requested_only: bool = False) -> Transfer | None:
        """Return the body that comes next from a site: what was asked for by hand first."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["next"], site, requested_only)
        return None if row is None else Transfer(*row)

    async def next_packed(self, site: str, *, limit: int) -> list[Transfer]:
        """Return small LDOs and CIDs that come next from a site, and that nobody has asked for by hand."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["next_packed"], site, PACKED_BYTES_MAX, limit)
        return [Transfer(*row) for row in rows]

    async def request(self, record: UUID) -> bool:
        """Ask for the bytes of a record, before all that was not asked for; returns whether they are still to come."""
        async with borrowed(self._pool, self._dsn) as connection:
            is_waiting = row_count(await connection.execute(self._sql["request"], record)) > 0
            if is_waiting:
                await connection.fetch(self._sql["notify"])
        return is_waiting

    async def is_other_requested(self, transfer: Transfer) -> bool:
        """Return whether another body of the site was asked for by hand, and can be tried."""
        async with borrowed(self._pool, self._dsn) as connection:
            return bool(await connection.fetchval(self._sql["is_requested"], transfer.site, transfer.digest))

    async def postpone(self, transfer: Transfer, why: str, seconds: float) -> None:
        """Note why a body could not be brought, and try it again later."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["postpone"], transfer.site, transfer.digest, why, seconds)

    async def set_clip(self, record: UUID, clip: bytes) -> None:
        """Note the clip that belongs to an LDO."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["set_clip"], record, clip)

    async def drop(self, digest: bytes) -> None:
        """Bring these bytes no more: they were erased."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["drop"], digest)

    async def of_digest(self, digest: bytes) -> list[TransferState]:
        """Return where bytes are that are not here yet; nothing where they are here."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["of_digest"], digest)
        return [TransferState(*row) for row in rows]

    async def waiting(self) -> list[WaitingBodies]:
        """Return how much is still to be brought, by site."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["waiting"])
        return [WaitingBodies(*row) for row in rows]
