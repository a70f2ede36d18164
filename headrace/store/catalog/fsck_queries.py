"""The catalog's queries and repairs for `headrace fsck`, which compares it with the store and the topics."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from headrace.schemas.digest import event_id, record_id
from headrace.schemas.events import Kind
from headrace.schemas.topics import ingested_topic
from headrace.store.catalog.archives import Location
from headrace.store.catalog.orphan_gc import STATEMENT_S_MAX
from headrace.store.postgres import borrowed, opened_pool, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

PAGE_ROWS = 5000
FOUND_MAX = 10_000  # of one kind; the others are found after these are repaired
POSITIONS_MAX = 10
_CONNECTIONS_MAX = 3


@dataclass(frozen=True, slots=True)
class SingleBlob:
    """A blob that is an object of its own."""

    digest: bytes
    size_bytes: int
    media_type: str
    store_key: str


@dataclass(frozen=True, slots=True)
class PackMember:
    """A blob that lies in a pack."""

    digest: bytes
    size_bytes: int
    media_type: str
    store_offset: int


@dataclass(frozen=True, slots=True)
class PackRows:
    """The catalog's rows of a pack: the number of blobs, and where the last of them ends."""

    members: int
    end_bytes: int


@dataclass(frozen=True, slots=True)
class RecordWithoutBlob:
    """A record whose blob has no row."""

    record_id: UUID
    kind: str
    digest: bytes
    size_bytes: int
    media_type: str


@dataclass(frozen=True, slots=True)
class OverdueAnnouncements:
    """Announcements to one topic that have been unpublished for too long."""

    topic: str
    number: int
    oldest_s: int


@dataclass(frozen=True, slots=True)
class AnnouncementWithoutRecord:
    """An announcement whose record is gone."""

    outbox_id: int
    event_id: UUID
    record_id: UUID
    published: bool


@dataclass(frozen=True, slots=True)
class MessagePosition:
    """The position of a sighting's message, and its kind."""

    topic: str
    partition: int
    offset: int
    kind: Kind


class FsckQueries:
    """Every method may be repeated; raises CatalogUnavailableError or CatalogRefusedError. Lists end at FOUND_MAX.

    `alone`, `packs`, `members` and `named` are about the blobs in the store, or with `in_archive` in the archive.
    """

    def __init__(self, pool: "Pool", dsn: str, *, archived: bool = False) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        self._archived = archived
        self._sql = statements("fsck_queries")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Connect."""
        async with opened_pool(
            dsn, connections_max=_CONNECTIONS_MAX, statement_s_max=STATEMENT_S_MAX, application="headrace fsck"
        ) as pool:
            yield cls(pool, dsn)

    def in_archive(self) -> "FsckQueries":
        """Return the queries for the blobs in the archive."""
        return FsckQueries(self._pool, self._dsn, archived=True)

    async def has_archived(self) -> bool:
        """Return whether any blob is in the archive."""
        return bool((await self._fetch("archived"))[0][0])

    async def named(self, keys: Sequence[str]) -> set[str]:
        """Return those of the objects to which a row refers."""
        return {row[0] for row in await self._fetch("named", keys, self._archived)}

    async def leavings(self) -> set[str]:
        """Return the objects that a move wrote without a row, or has still to delete."""
        place = Location.ARCHIVE if self._archived else Location.STORE
        return {row[0] for row in await self._fetch("leavings", place)}

    async def alone(self, prefix: str) -> AsyncGenerator[SingleBlob]:
        """Yield the blobs that are objects of their own and whose digest begins with two digits."""
        # The first key is excluded, and no blob that anyone has seen hashes to a row of zeros.
        after, last = (bytes.fromhex(prefix.ljust(64, fill)) for fill in "0f")
        while True:
            rows = await self._fetch("alone", after, last, PAGE_ROWS, self._archived)
            for row in rows:
                yield SingleBlob(*row)
            if len(rows) < PAGE_ROWS:
                return
            after = rows[-1][0]

    async def packs(self) -> dict[str, PackRows]:
        """Return the rows of each pack, by key."""
        return {row[0]: PackRows(row[1], row[2]) for row in await self._fetch("packs", self._archived)}

    async def members(self, pack: str) -> list[PackMember]:
        """Return the blobs of a pack by their offset."""
        return [PackMember(*row) for row in await self._fetch("members", pack, self._archived)]

    async def records_without_blob(self) -> list[RecordWithoutBlob]:
        """Return records whose blob has no row."""
        return [RecordWithoutBlob(*row) for row in await self._fetch("records_without_blob", FOUND_MAX)]

    async def records_without_announcement(self) -> list[tuple[UUID, Kind]]:
        """Return records without an outbox row, within the outbox's retention."""
        return [(row[0], Kind(row[1])) for row in await self._fetch("records_without_announcement", FOUND_MAX)]

    async def late(self, seconds: int) -> list[OverdueAnnouncements]:
        """Return, by topic, the announcements that have been unpublished for longer than so many seconds."""
        return [OverdueAnnouncements(*row) for row in await self._fetch("late", seconds)]

    async def announcements_without_record(self) -> list[AnnouncementWithoutRecord]:
        """Return rows of the outbox whose record is gone."""
        return [AnnouncementWithoutRecord(*row) for row in await self._fetch("announcements_without_record", FOUND_MAX)]

    async def unknown_records(self, ids: Sequence[UUID]) -> list[UUID]:
        """Return the ids that no record has, and none that was erased had."""
        return [row[0] for row in await self._fetch("unknown_records", ids)]

    async def now_us(self) -> int:
        """Return PostgreSQL's time."""
        return int((await self._fetch("now"))[0][0])

    async def published_records(self, *, before_us: int, since_us: int) -> AsyncGenerator[tuple[UUID, Kind]]:
        """Yield records marked as announced before one time and written since another."""
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction(readonly=True):
            query = self._sql["published_records"]
            async for row in connection.cursor(query, before_us, since_us, prefetch=PAGE_ROWS):
                yield row[0], Kind(row[1])

    async def media_type(self, digest: bytes) -> str | None:
        """Return the media type of a blob; None if it has no row."""
        rows = await self._fetch("media_type", digest)
        return rows[0][0] if rows else None

    async def positions(self, digest: bytes) -> list[MessagePosition]:
        """Return the positions of the messages with these bytes, the latest first."""
        records = [record_id(kind, digest.hex()) for kind in Kind]
        rows = await self._fetch("positions", records, POSITIONS_MAX)
        return [MessagePosition(row[0], row[1], row[2], Kind(row[3])) for row in rows]

    async def add_blob(self, row: SingleBlob) -> None:
        """Insert a blob's row if it is missing."""
        await self._execute("add_blob", row.digest, row.size_bytes, row.media_type, row.store_key)

    async def move_blob(self, digest: bytes, store_key: str) -> None:
        """Change a blob's row to an object of its own."""
        await self._execute("move_blob", digest, store_key)

    async def announce(self, kinds: Mapping[UUID, Kind], *, out: AbstractSet[UUID]) -> None:
        """Insert the outbox rows that records lack, and let the relay publish all of them but those that are `out`."""
        records = list(kinds)
        topics = [ingested_topic(kinds[record]).name for record in records]
        are_out = [record in out for record in records]
        await self._execute("add_announcements", [event_id(record) for record in records], topics, records, are_out)
        # Also of a row that is marked as published, because its topic lacks the announcement.
        await self._execute("announce_again", [record for record in records if record not in out])
        await self._execute("notify")

    async def drop_announcement(self, outbox_id: int) -> None:
        """Delete a row of the outbox."""
        await self._execute("drop_announcement", outbox_id)

    async def old_announcements(self, retention_days: int) -> int:
        """Count the published rows of the outbox that are older than their retention."""
        return int((await self._fetch("old_announcements", retention_days))[0][0])

    async def _fetch(self, name: str, *values: Any) -> list[Any]:
        async with borrowed(self._pool, self._dsn) as connection:
            return list(await connection.fetch(self._sql[name], *values))

    async def _execute(self, name: str, *values: Any) -> None:
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql[name], *values)
