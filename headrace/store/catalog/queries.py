"""The catalog's read side: lists, single records with their sightings, counts, dead letters."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Self
from uuid import UUID

from headrace.schemas.catalog_rows import BlobLocation
from headrace.schemas.digest import is_digest, record_id
from headrace.schemas.events import Kind
from headrace.store.catalog.pagination import cursor_of, key_of, page_query, within
from headrace.store.catalog.transfers import Transfers, TransferState
from headrace.store.catalog.views import (
    CatalogCounts,
    RecordDetail,
    RecordFilters,
    RecordList,
    Sighting,
    StoredRecord,
    as_sighted,
)
from headrace.store.errors import RecordAmbiguousError, RecordMissingError
from headrace.store.postgres import STATEMENT_S_MAX, borrowed, close_pool, open_pool, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

READ_CONNECTIONS_MAX = 4
PAGE_RECORDS_MAX = 1000
SIGHTINGS_MAX = 1000  # of one record; an unchanging picture may have a million sightings
PREFIX_DIGITS_MIN = 4
_NAMED_MAX = 5  # records that an ambiguous prefix names
_DIGESTS_PAGE = 500

_PUBLIC_LDO_ID = re.compile(r"ldo_([0-9a-f]{12})_(-?[0-9]{1,11})")
_HEX = re.compile(r"[0-9a-f]+")


class Queries:
    """The catalog's read side. Raises CatalogUnavailableError or CatalogRefusedError.

    `scopes` are the reader's, 'site/source' or 'site/*'; None is everything.
    """

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        fixed = {"{within}": within("r", "$2"), "{sighting_within}": within("s", "$2")}
        self._sql = {name: _filled(text, fixed) for name, text in statements("queries").items()}
        self._sql["sightings"] = statements("queries")["sightings"].replace("{within}", within("r", "$3"))

    @classmethod
    async def open(
        cls, dsn: str, *, connections_max: int = READ_CONNECTIONS_MAX, statement_s_max: float = STATEMENT_S_MAX
    ) -> Self:
        """Connect."""
        pool = await open_pool(
            dsn, connections_max=connections_max, statement_s_max=statement_s_max, application="headrace queries"
        )
        return cls(pool, dsn)

    async def close(self) -> None:
        """Close every connection."""
        await close_pool(self._pool)

    async def list_records(self, filters: RecordFilters, *, cursor: str | None = None, limit: int = 50) -> RecordList:
        """Return a page of records, newest first; concurrent ingestion does not shift the pages.

        Raises:
            ValueError: the cursor is invalid, or the limit is not between 1 and PAGE_RECORDS_MAX.
        """
        if not 1 <= limit <= PAGE_RECORDS_MAX:
            raise ValueError(f"a page has 1 to {PAGE_RECORDS_MAX} records")
        text, values = page_query(filters, key_of(cursor) if cursor is not None else None, limit)
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(text, *values)
        records = tuple(StoredRecord(*row) for row in rows)
        more = len(records) == limit
        return RecordList(records, cursor_of(records[-1].ingested_at_us, records[-1].record_id) if more else None)

    async def record(self, wanted: str, scopes: Sequence[str] | None = None) -> RecordDetail:
        """Return a record by its id, a prefix of its id or digest, a public LDO id, an LDO id, or a code.

        Of several records with an LDO id or a code it is the newest.

        Raises:
            RecordMissingError: no record within the scopes matches. RecordAmbiguousError: a prefix matches several.
        """
        matches = await self._reached(await self._candidates(wanted.strip(), scopes), scopes)
        match matches:
            case []:
                raise RecordMissingError(wanted)
            case [record]:
                pass
            case _:
                raise RecordAmbiguousError(wanted, [f"{row.kind} {row.record_id}" for row in matches[:_NAMED_MAX]])
        return RecordDetail(record, await self._sightings(record.record_id, SIGHTINGS_MAX, scopes))

    async def records_of(self, digest: str, scopes: Sequence[str] | None = None) -> list[StoredRecord]:
        """Return the records with this digest, at most one of each kind, newest first."""
        return await self._reached([record_id(kind, digest) for kind in Kind], scopes)

    async def blob(self, digest: str) -> BlobLocation | None:
        """Return the location of the blob with this digest, or None if the catalog has none."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["blob"], bytes.fromhex(digest))
        return None if row is None else BlobLocation(*row)

    async def transfers_of(self, digest: str) -> list[TransferState]:
        """Return the sites from which these bytes are still to be brought; none where they are here."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(statements("transfers")["of_digest"], bytes.fromhex(digest))
        return [TransferState(*row) for row in rows]

    async def request_transfer(self, record: UUID) -> bool:
        """Ask for the bytes of a record before all others; returns whether they are still to come."""
        return await Transfers(self._pool, self._dsn).request(record)

    async def counts(self) -> CatalogCounts:
        """Return the number of records, sightings, dead letters and unpublished rows."""
        async with (
            borrowed(self._pool, self._dsn) as connection,
            # One snapshot, so the numbers belong together while a worker writes.
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            records = await connection.fetch(self._sql["count_records"])
            sightings = await connection.fetchval(self._sql["count_sightings"])
            letters = await connection.fetch(self._sql["count_dead_letters"])
            unpublished = await connection.fetchval(self._sql["count_unpublished"])
        by_kind = {str(kind): 0 for kind in Kind} | {row[0]: row[1] for row in records}
        return CatalogCounts(by_kind, int(sightings), {row[0]: row[1] for row in letters}, int(unpublished))

    async def _by_ids(self, ids: list[UUID]) -> list[StoredRecord]:
        text = self._sql["by_ids"].replace("{columns}", self._sql["columns"])
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(text, ids)
        return [StoredRecord(*row) for row in rows]

    async def _reached(self, ids: list[UUID], scopes: Sequence[str] | None) -> list[StoredRecord]:
        """Return the records within the scopes; one that another source delivered first as the reader's source did."""
        if scopes is None or not ids:
            return await self._by_ids(ids)
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["reached"], ids, scopes)
        is_own = {row["record_id"]: row["is_own"] for row in rows}
        records = await self._by_ids([*is_own])
        return [record if is_own[record.record_id] else await self._as_sighted(record, scopes) for record in records]

    async def _as_sighted(self, record: StoredRecord, scopes: Sequence[str]) -> StoredRecord:
        [first] = await self._sightings(record.record_id, 1, scopes)
        return as_sighted(record, first)

    async def _sightings(self, record: UUID, limit: int, scopes: Sequence[str] | None) -> tuple[Sighting, ...]:
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["sightings"], record, limit, scopes)
        return tuple(Sighting(*row) for row in rows)

    async def _candidates(self, wanted: str, scopes: Sequence[str] | None) -> list[UUID]:
        # Devices choose their ldo_id, so one may look like a public id.
        if public := _PUBLIC_LDO_ID.fullmatch(wanted):
            ids = await self._ldos(public[1], int(public[2]), scopes)
            if ids:
                return ids
        for name in ("newest_by_ldo_id", "newest_by_code"):
            async with borrowed(self._pool, self._dsn) as connection:
                if (newest := await connection.fetchval(self._sql[name], wanted, scopes)) is not None:
                    return [newest]
        digits = wanted.lower().replace("-", "")
        if is_digest(digits):
            return [record_id(kind, digits) for kind in Kind]
        if len(digits) < PREFIX_DIGITS_MIN or len(digits) > 64 or not _HEX.fullmatch(digits):
            return []
        ids = await self._records_by_digest(digits, scopes)
        if len(digits) <= 32:
            first, last = (UUID(digits.ljust(32, fill)) for fill in "0f")
            async with borrowed(self._pool, self._dsn) as connection:
                rows = await connection.fetch(self._sql["ids_between"], first, scopes, last, _NAMED_MAX + 1)
            ids += [row[0] for row in rows]
        return ids

    async def _ldos(self, digits: str, captured_at_s: int, scopes: Sequence[str] | None) -> list[UUID]:
        """Return ids of the LDOs of a public id, enough of those within the scopes to name some."""

        async def matches(digests: Sequence[str]) -> list[UUID]:
            ids = [record_id(Kind.LDO, digest) for digest in digests]
            async with borrowed(self._pool, self._dsn) as connection:
                rows = await connection.fetch(self._sql["captured_within_second"], ids, scopes, captured_at_s)
            return [row[0] for row in rows]

        return await self._ids_by_digest(digits, matches, page=_DIGESTS_PAGE)

    async def _records_by_digest(self, digits: str, scopes: Sequence[str] | None) -> list[UUID]:
        """Return ids of records of the digests that begin so, enough of those within the scopes to name some."""

        async def matches(digests: Sequence[str]) -> list[UUID]:
            ids = [record_id(kind, digest) for digest in digests for kind in Kind]
            if scopes is None:
                return ids
            async with borrowed(self._pool, self._dsn) as connection:
                return [row["record_id"] for row in await connection.fetch(self._sql["reached"], ids, scopes)]

        return await self._ids_by_digest(digits, matches, page=_NAMED_MAX + 1 if scopes is None else _DIGESTS_PAGE)

    async def _ids_by_digest(
        self, digits: str, matches: Callable[[Sequence[str]], Awaitable[list[UUID]]], *, page: int
    ) -> list[UUID]:
        """Return what matches of the digests that begin so, page by page, until there is enough to name some.

        An id follows from a digest here only, and not in a statement.
        """
        ids: list[UUID] = []
        after = ""
        while len(ids) <= _NAMED_MAX:
            digests = await self._digests(digits, after=after, limit=page)
            ids += await matches(digests)
            if len(digests) < page:
                break
            after = digests[-1]
        return ids

    async def _digests(self, prefix: str, *, after: str, limit: int) -> list[str]:
        bounds = (bytes.fromhex(text) for text in (prefix.ljust(64, "0"), prefix.ljust(64, "f"), after))
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["digests_between"], *bounds, limit)
        return [row[0].hex() for row in rows]


def _filled(text: str, fixed: dict[str, str]) -> str:
    for word, part in fixed.items():
        text = text.replace(word, part)
    return text
