"""Records as a job exports them: all of a selection, in an order that stays, whatever is ingested meanwhile."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self
from uuid import UUID

from schemas.events import Kind
from store.postgres import STATEMENT_S_MAX, borrowed, close_pool, open_pool
from store.statements import statements
from store.views import StoredRecord

if TYPE_CHECKING:
    import asyncpg

    from store.postgres import Pool

PAGE_ROWS = 500
_CONNECTIONS_MAX = 2
_SPANS = 256  # a selection that fits next to nothing walks the whole index: each statement only this part of it
_SPAN_BITS = 128 - 8
_RECORD_COLUMNS = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which records; what is None does not matter. `until_us` ends when they were ingested, excluded.

    `captured_from_us` and `captured_until_us`, excluded, say when they were captured.
    """

    until_us: int
    kinds: tuple[Kind, ...] | None = None
    sites: tuple[str, ...] | None = None
    source_ids: tuple[str, ...] | None = None
    captured_from_us: int | None = None
    captured_until_us: int | None = None


@dataclass(frozen=True, slots=True)
class ClipPlace:
    """The clip of an LDO, and where its bytes are."""

    digest: str
    size_bytes: int
    media_type: str
    store_key: str
    store_offset: int | None
    archived_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """One record, with the clip that belongs to it where that was ingested."""

    record: StoredRecord
    clip: ClipPlace | None


class Exports:
    """Every method may be repeated; raises CatalogUnavailable or CatalogRefused."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        sql = statements("exports")
        self._page = sql["page"].replace("{columns}", statements("queries")["columns"])
        self._settled = sql["settled_until"]

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Connect."""
        pool = await open_pool(
            dsn, connections_max=_CONNECTIONS_MAX, statement_s_max=STATEMENT_S_MAX, application="headrace export"
        )
        try:
            yield cls(pool, dsn)
        finally:
            await close_pool(pool)

    async def settled_until_us(self) -> int:
        """Return a time before which no record will come in any more, by the catalog's clock."""
        async with borrowed(self._pool, self._dsn) as connection:
            return int(await connection.fetchval(self._settled))

    async def records(self, wanted: Wanted, *, after: UUID | None = None) -> AsyncGenerator[Exported]:
        """Yield the records in the order of their ids, those up to `after` left out."""
        key = after or UUID(int=0)
        for span in range(key.int >> _SPAN_BITS, _SPANS):
            last = UUID(int=((span + 1) << _SPAN_BITS) - 1)
            while True:
                rows = await self._rows(wanted, key, last)
                for row in rows:
                    yield _exported(row)
                if len(rows) < PAGE_ROWS:
                    break
                key = rows[-1][0]
            key = last

    async def _rows(self, wanted: Wanted, after: UUID, last: UUID) -> "list[asyncpg.Record]":
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetch(
                self._page, after, last, wanted.until_us, wanted.kinds, wanted.sites, wanted.source_ids,
                wanted.captured_from_us, wanted.captured_until_us, PAGE_ROWS,
            )  # fmt: skip


def _exported(row: "asyncpg.Record") -> Exported:
    values = tuple(row)
    clip = values[_RECORD_COLUMNS:]
    return Exported(StoredRecord(*values[:_RECORD_COLUMNS]), None if clip[0] is None else ClipPlace(*clip))
