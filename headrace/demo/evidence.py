"""What the catalog and the blob store hold of what was published."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.demo.ledger import MessageOffset, RecordKey
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.digest import record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.postgres import borrowed, opened_pool, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

_SQL = statements(str(Path(__file__).parent / "catalog"))
_READS_AT_ONCE_MAX = 16


@dataclass(frozen=True, slots=True)
class StoredCounts:
    """A record and where its bytes are; `was_there` says that it was ingested before the demonstration began."""

    identity: RecordKey
    was_there: bool
    size_bytes: int
    store_key: str | None
    store_offset: int | None


class DemoEvidence:
    """Reads the catalog. Raises CatalogUnavailable or CatalogRefused."""

    def __init__(self, pool: Any, dsn: str, since: datetime) -> None:
        """Use an opened pool; see `opened`."""
        self._pool = pool
        self._dsn = dsn
        self._since = since

    async def sightings(self, places: Iterable[MessageOffset]) -> dict[MessageOffset, RecordKey]:
        """Return which record was seen at each of these places."""
        rows = await self._fetch("sightings", *_columns(places), self._since)
        return {MessageOffset(*row[:3]): RecordKey(Kind(row[3]), row[4]) for row in rows}

    async def dead_letters(self, places: Iterable[MessageOffset]) -> dict[MessageOffset, str]:
        """Return the code of the dead letter of each of these places."""
        rows = await self._fetch("dead_letters", *_columns(places), self._since)
        return {MessageOffset(*row[:3]): row[3] for row in rows}

    async def records(self, identities: Iterable[RecordKey]) -> list[StoredCounts]:
        """Return the records that there are of these."""
        ids = [record_id(one.kind, one.digest) for one in identities]
        rows = await self._fetch("records", ids, self._since)
        return [StoredCounts(RecordKey(Kind(row[0]), row[1]), *row[2:]) for row in rows]

    async def _fetch(self, name: str, *values: object) -> list[Any]:
        async with borrowed(self._pool, self._dsn) as connection:
            return list(await connection.fetch(_SQL[name], *values))


@asynccontextmanager
async def opened(settings: Settings, since: datetime) -> AsyncIterator[DemoEvidence]:
    """Connect to the catalog; what happened there before `since`, by its own clock, does not count."""
    dsn = settings.postgres_dsn.get_secret_value()
    async with _pool(settings, dsn) as pool:
        yield DemoEvidence(pool, dsn, since)


async def catalog_now(settings: Settings) -> datetime:
    """Return what the catalog's own clock says."""
    dsn = settings.postgres_dsn.get_secret_value()
    async with _pool(settings, dsn) as pool, borrowed(pool, dsn) as connection:
        now: datetime = await connection.fetchval(_SQL["now"])
        return now


async def verified(settings: Settings, bodies: Mapping[str, StoredCounts | str]) -> list[str]:
    """Read every body from the store and hash it; returns a sentence for each that is not what it should be.

    The keys are what to call a body in such a sentence; a value is a record, or the digest of the object of that key.
    """
    blobs = Blobs.from_settings(settings)
    room = asyncio.Semaphore(_READS_AT_ONCE_MAX)

    async def check(name: str, body: StoredCounts | str) -> str | None:
        async with room:
            return await _fault(blobs, name, body)

    answers = await asyncio.gather(*(check(name, body) for name, body in bodies.items()))
    return [answer for answer in answers if answer is not None]


async def _fault(blobs: Blobs, name: str, body: StoredCounts | str) -> str | None:
    match body:
        case str(digest):
            key, place = name, None
        case StoredCounts(identity, _, size_bytes, store_key, store_offset):
            if store_key is None:
                return f"{name} has no blob in the catalog"
            digest, key = identity.digest, store_key
            place = None if store_offset is None else (store_offset, size_bytes)
    try:
        data = await (blobs.get(key) if place is None else blobs.get(key, offset=place[0], length=place[1]))
    except HeadraceError as error:
        return f"{name} cannot be read: {error.what}"
    found = sha256_hex(data)
    return None if found == digest else f"{name} hashes to {found}, not to {digest}"


def _pool(settings: Settings, dsn: str) -> "AbstractAsyncContextManager[Pool]":
    return opened_pool(
        dsn, connections_max=2, statement_s_max=settings.postgres_statement_s_max, application="headrace demo"
    )


def _columns(places: Iterable[MessageOffset]) -> tuple[list[str], list[int], list[int]]:
    known = list(places)
    return [one.topic for one in known], [one.partition for one in known], [one.offset for one in known]
