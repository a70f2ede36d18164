"""How far each input partition is ingested, and which offsets retention deleted before that."""

from collections.abc import Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from headrace.schemas.topics import PartitionKey
from headrace.store.locks import LOST_LOCK
from headrace.store.postgres import borrowed, opened_pool, statements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from headrace.store.postgres import Pool, Pooled

LISTED_MAX = 1000


@dataclass(frozen=True, slots=True)
class CatalogPosition:
    """The catalog's view of a partition: offsets below `next_offset` are ingested, and rows reach to `seen_until`.

    `topic_id` is Kafka's id of the topic that they were ingested from; None where it is not known.
    """

    next_offset: int | None
    seen_until: int | None
    topic_id: str | None = None


@dataclass(frozen=True, slots=True)
class LostRange:
    """Offsets that were deleted before they were ingested, both included; transaction markers count too."""

    topic: str
    partition: int
    first_offset: int
    last_offset: int
    noticed_at_us: int

    @property
    def count(self) -> int:
        """How many offsets."""
        return self.last_offset - self.first_offset + 1


@dataclass(frozen=True, slots=True)
class SourceLoss:
    """What the spool of a source reports as lost: its own dropped events, and damaged ones of any source."""

    site: str
    source_id: str
    spool: str
    dropped: int
    damaged: int
    reported_at_us: int


async def advance(connection: "Pooled", next_offsets: Mapping[PartitionKey, int]) -> dict[PartitionKey, int | None]:
    """Move partitions on, never back, and return where they were; call it last in a batch's transaction."""
    topics, partitions = zip(*next_offsets, strict=True)
    rows = await connection.fetch(
        statements("ingest_progress")["advance"], topics, partitions, list(next_offsets.values())
    )
    return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}


class IngestProgress:
    """Reads and corrects the progress. Every method may be repeated.

    Raises CatalogUnavailableError or CatalogRefusedError.
    """

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("ingest_progress")

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, *, statement_s_max: float) -> "AsyncIterator[Self]":
        """Connect, and close on exit."""
        async with opened_pool(
            dsn, connections_max=1, statement_s_max=statement_s_max, application="headrace progress"
        ) as pool:
            yield cls(pool, dsn)

    async def positions(self, keys: Collection[PartitionKey]) -> dict[PartitionKey, CatalogPosition]:
        """Return the catalog's view of each partition."""
        topics, partitions = [topic for topic, _ in keys], [partition for _, partition in keys]
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["positions"], topics, partitions)
        return {
            (row["topic"], row["partition"]): CatalogPosition(row["next_offset"], row["seen_until"], row["topic_id"])
            for row in rows
        }

    async def advance(self, next_offsets: Mapping[PartitionKey, int]) -> None:
        """Move partitions on, never back."""
        async with borrowed(self._pool, self._dsn) as connection:
            await advance(connection, next_offsets)

    async def restart(self, key: PartitionKey, next_offset: int) -> None:
        """Set a partition, also backwards: its topic was made anew."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["restart"], *key, next_offset)

    async def identify(self, key: PartitionKey, topic_id: str) -> None:
        """Keep Kafka's id of the topic from which a partition is ingested; nothing where it has no progress yet."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["identify"], *key, topic_id)

    async def note_lost(self, key: PartitionKey, lost: range) -> int:
        """Record offsets as lost, merged with what is recorded; return how many of them are new."""
        first, last = lost.start, lost.stop - 1
        noticed_at: datetime | None = None
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            await connection.execute(self._sql["lock_lost"], LOST_LOCK)
            known = await connection.fetch(self._sql["touching"], *key, first, last)
            for row in known:
                first, last = min(first, int(row["first_offset"])), max(last, int(row["last_offset"]))
                noticed_at = min(noticed_at or row["noticed_at"], row["noticed_at"])
            await connection.execute(self._sql["add_lost"], *key, first, last, noticed_at)
        return last - first + 1 - sum(int(row["last_offset"]) - int(row["first_offset"]) + 1 for row in known)

    async def lost(self, limit: int = LISTED_MAX) -> list[LostRange]:
        """Return what is lost, newest first."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["lost"], limit)
        return [LostRange(*row) for row in rows]

    async def source_losses(self, limit: int = LISTED_MAX) -> list[SourceLoss]:
        """Return what sources report as lost, newest first."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["source_losses"], limit)
        return [SourceLoss(*row) for row in rows]
