"""Records for exports: all of a selection, in an order that concurrent ingestion does not change.

What is exported where is recorded too, because an erasure names the exports that can hold what it deletes.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from headrace.runtime.errors import HeadraceError
from headrace.schemas.events import Kind
from headrace.store.catalog.views import StoredRecord
from headrace.store.errors import address
from headrace.store.postgres import STATEMENT_S_MAX, borrowed, opened_pool, statements

if TYPE_CHECKING:
    import asyncpg

    from headrace.store.postgres import Pool

PAGE_ROWS = 500
_CONNECTIONS_MAX = 2
_SPANS = 256  # a selection that fits next to nothing walks the whole index: each statement only this part of it
_SPAN_BITS = 128 - 8
_RECORD_COLUMNS = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSelection:
    """A filter of records; None matches everything. `until_us` is the end of their ingestion time, excluded.

    `captured_from_us` and `captured_until_us`, excluded, bound the capture time. `labelled` is the version of labelling
    functions that must have labelled them, before `until_us` too.
    """

    until_us: int
    kinds: tuple[Kind, ...] | None = None
    sites: tuple[str, ...] | None = None
    source_ids: tuple[str, ...] | None = None
    captured_from_us: int | None = None
    captured_until_us: int | None = None
    labelled: str | None = None


@dataclass(frozen=True, slots=True)
class ClipLocation:
    """The clip of an LDO and the location of its bytes."""

    digest: str
    size_bytes: int
    media_type: str
    store_key: str
    store_offset: int | None
    archived_at_us: int | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """One record, with its clip if that was ingested, and its label of the selected version.

    `clip_sha256`, hexadecimal, is the clip that an LDO declares, whether it was ingested or not.
    """

    record: StoredRecord
    clip: ClipLocation | None
    label: str | None = None
    clip_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class ExportPlace:
    """The target of an export: a directory of the machine `host`, or the address of a store, without a host."""

    host: str
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRun:
    """What an export writes; `validation_share` is from 0 to 1."""

    place: ExportPlace
    format: str
    wanted: ExportSelection
    validation_share: float


class ExportRuns:
    """The rows of one export, by which an erasure finds it. Every method may be repeated.

    Raises CatalogUnavailableError or CatalogRefusedError.
    """

    def __init__(self, pool: "Pool", dsn: str, place: ExportPlace) -> None:
        """Use an opened pool; see `Exports.begin_run`."""
        self._pool = pool
        self._dsn = dsn
        self._place = place
        self._sql = statements("exports")

    async def add_shard(self, name: str, split: str, first: UUID, last: UUID) -> None:
        """Record a shard that is complete, by the first and the last record in it."""
        await self._execute("add_shard", name, split, first, last)

    async def end(self) -> None:
        """Record that the export has no further shards."""
        await self._execute("end_run")

    async def _execute(self, name: str, *values: Any) -> None:
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql[name], self._place.host, self._place.target, *values)


class Exports:
    """Every method may be repeated; raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        sql = statements("exports")
        self._page = _filled(sql["page"], sql["selected"])
        self._unlabelled = _filled(statements("labels")["unlabelled"], sql["selected"])
        self._settled = sql["settled_until"]
        self._begin_run, self._forget_shards = sql["begin_run"], sql["forget_shards"]

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Connect."""
        async with opened_pool(
            dsn, connections_max=_CONNECTIONS_MAX, statement_s_max=STATEMENT_S_MAX, application="headrace export"
        ) as pool:
            yield cls(pool, dsn)

    async def settled_until_us(self) -> int:
        """Return a time, by the catalog's clock, before which no further record will be committed.

        Raises:
            HeadraceError: PostgreSQL hides the workers' transactions from this user.
        """
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._settled)
        assert row is not None, "an aggregate has one row"
        if row["hidden"]:
            raise HeadraceError(
                "transactions_hidden",
                f"PostgreSQL hides {row['hidden']} sessions of Headrace, whose transactions may still add records",
                where=address(self._dsn),
                hint="log in as a member of headrace_operator, once `headrace init --roles` of this version has run",
            )
        return int(row["until_us"])

    async def begin_run(self, run: ExportRun) -> ExportRuns:
        """Record an export before its first record is read; forget the shards of another one in the same place."""
        wanted, place = run.wanted, (run.place.host, run.place.target)
        values = (
            run.format,
            *(wanted.kinds, wanted.sites, wanted.source_ids),
            *(wanted.captured_from_us, wanted.captured_until_us, wanted.until_us, run.validation_share),
        )
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            if await connection.fetchval(self._begin_run, *place, *values):
                await connection.execute(self._forget_shards, *place)
        return ExportRuns(self._pool, self._dsn, run.place)

    async def records(self, wanted: ExportSelection, *, after: UUID | None = None) -> AsyncGenerator[Exported]:
        """Yield the records after the id `after`, in the order of their ids."""
        async for page in self._pages(self._page, wanted, wanted.labelled, after):
            for row in page:
                yield _exported(row)

    async def unlabelled(self, wanted: ExportSelection, version: str) -> AsyncGenerator[list[StoredRecord]]:
        """Yield pages of the records that a version has not labelled yet, in the order of their ids."""
        async for page in self._pages(self._unlabelled, wanted, version, None):
            if page:
                yield [StoredRecord(*row) for row in page]

    async def _pages(
        self, statement: str, wanted: ExportSelection, version: str | None, after: UUID | None
    ) -> "AsyncGenerator[list[asyncpg.Record]]":
        key = after or UUID(int=0)
        for span in range(key.int >> _SPAN_BITS, _SPANS):
            last = UUID(int=((span + 1) << _SPAN_BITS) - 1)
            while True:
                async with borrowed(self._pool, self._dsn) as connection:
                    rows = await connection.fetch(
                        statement,
                        key,
                        last,
                        wanted.until_us,
                        wanted.kinds,
                        wanted.sites,
                        wanted.source_ids,
                        wanted.captured_from_us,
                        wanted.captured_until_us,
                        PAGE_ROWS,
                        version,
                    )
                yield rows
                if len(rows) < PAGE_ROWS:
                    break
                key = rows[-1][0]
            key = last


def _filled(statement: str, selected: str) -> str:
    return statement.replace("{columns}", statements("queries")["columns"]).replace("{selected}", selected)


def _exported(row: "asyncpg.Record") -> Exported:
    values = tuple(row)
    clip, (label, clip_sha256) = values[_RECORD_COLUMNS:-2], values[-2:]
    location = None if clip[0] is None else ClipLocation(*clip)
    return Exported(StoredRecord(*values[:_RECORD_COLUMNS]), location, label, clip_sha256)
