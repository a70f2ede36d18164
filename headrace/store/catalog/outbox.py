"""The outbox for the relay: unpublished announcements in order, and the checkpoints of its topics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self
from uuid import UUID

import asyncpg

from headrace.schemas.digest import event_id, is_digest, record_id
from headrace.schemas.events import DeadLetter, Ingested, Kind
from headrace.schemas.topics import PartitionKey
from headrace.store.catalog.parameters import storable
from headrace.store.catalog.sessions import OUTBOX_CHANNEL, CommitListener, LeaderLock, listen, wait_for_leader_lock
from headrace.store.installation import check_server
from headrace.store.locks import REBUILD_LOCK
from headrace.store.postgres import STATEMENT_S_MAX, borrowed, close_pool, open_pool, row_count, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool

OUTBOX_CONNECTIONS_MAX = 3  # for the loops of five topics, whose statements are short
LISTED_MAX = 1000
PENDING_BYTES_MAX = 32 * 1024 * 1024  # of bodies and attributes of one query, in memory


@dataclass(frozen=True, slots=True)
class Pending:
    """One announcement that is not marked as published. Publish them by ascending `outbox_id`.

    `event` is None where the record, blob or dead letter of the row was deleted.
    """

    outbox_id: int
    event_id: UUID
    topic: str
    event: Ingested | DeadLetter | None
    traceparent: str | None


@dataclass(frozen=True, slots=True)
class SetAside:
    """One announcement that cannot be published, and why; it names a record or a dead letter."""

    outbox_id: int
    event_id: UUID
    topic: str
    record_id: UUID | None
    dead_letter_id: UUID | None
    set_aside_at_us: int
    why: str


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An announcement on its topic; `subject` is the digest of its record, or the position of the rejected message."""

    event_id: UUID
    subject: str | None

    @property
    def records(self) -> list[UUID]:
        """The ids of the records that it may announce: those of the digest."""
        return [record_id(kind, subject) for kind in Kind] if is_digest(subject := self.subject or "") else []

    @property
    def position(self) -> tuple[str, int, int] | None:
        """The topic, partition and offset of the rejected message."""
        topic, *numbers = (self.subject or "").rsplit("/", 2)
        if len(numbers) < 2 or not all(number.isascii() and number.isdigit() for number in numbers):
            return None
        return topic, int(numbers[0]), int(numbers[1])


class Outbox:
    """Unpublished announcements. Every method may be repeated.

    Raises CatalogUnavailableError or CatalogRefusedError.
    """

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("outbox")

    @classmethod
    async def open(cls, dsn: str, *, statement_s_max: float = STATEMENT_S_MAX, may_be_older: bool = False) -> Self:
        """Connect; the leader lock and the listener use connections of their own."""
        pool = await open_pool(
            dsn,
            connections_max=OUTBOX_CONNECTIONS_MAX,
            statement_s_max=statement_s_max,
            application="headrace relay",
            check=None if may_be_older else partial(check_server, dsn),
        )
        return cls(pool, dsn)

    async def close(self) -> None:
        """Close every connection of the pool."""
        await close_pool(self._pool)

    async def pending(self, topic: str, limit: int, *, bytes_max: int = PENDING_BYTES_MAX) -> list[Pending]:
        """Return a topic's oldest unpublished announcements: at most `limit`, at most so many bytes, at least one."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["pending"], limit, bytes_max, topic)
        return [_pending(row) for row in rows]

    async def mark(self, outbox_ids: Sequence[int], checkpoints: Mapping[PartitionKey, int] | None = None) -> int:
        """Mark announcements as published and save the checkpoints of partitions; return the number of rows."""
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            answer = await connection.execute(self._sql["mark"], outbox_ids)
            if checkpoints:
                partition_keys, offsets = zip(*sorted(checkpoints.items()), strict=True)
                topics, partitions = zip(*partition_keys, strict=True)
                await connection.execute(self._sql["save_checkpoints"], topics, partitions, offsets)
        return row_count(answer)

    async def set_aside(self, reasons: Mapping[int, str]) -> None:
        """Mark announcements, by `outbox_id`, that cannot be published, with the reasons."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["set_aside"], list(reasons), list(map(storable, reasons.values())))

    async def set_aside_rows(self) -> int:
        """Count the announcements that are set aside."""
        async with borrowed(self._pool, self._dsn) as connection:
            return int(await connection.fetchval(self._sql["set_aside_rows"]))

    async def listed_set_aside(self, limit: int) -> list[SetAside]:
        """Return announcements that are set aside, the latest first."""
        async with borrowed(self._pool, self._dsn) as connection:
            return [SetAside(*row) for row in await connection.fetch(self._sql["listed_set_aside"], limit)]

    async def retry_set_aside(self) -> int:
        """Have the relay announce what is set aside; return the number of rows."""
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            count = int(await connection.fetchval(self._sql["retry_set_aside"]))
            await connection.execute(self._sql["notify"])
        return count

    async def mark_seen(self, topic: str, event_ids: Iterable[UUID]) -> int:
        """Mark announcements that were found on their topic; return how many were not marked yet."""
        async with borrowed(self._pool, self._dsn) as connection:
            return row_count(await connection.execute(self._sql["mark_seen"], list(event_ids), topic))

    async def unknown(self, events: Iterable[PublishedEvent]) -> list[UUID]:
        """Return the ids of those announcements that the catalog does not know.

        The subject leads to the record or the dead letter; the outbox is scanned for what has no such subject, which no
        relay publishes.
        """
        published = list(events)
        records = [record for event in published for record in event.records]
        positions = [at for event in published if (at := event.position) is not None]
        others = [event.event_id for event in published if not event.records and event.position is None]
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["known_records"], records)
            known = {event_id(row["record_id"], row["site"]) for row in rows}
            if positions:
                rows = await connection.fetch(self._sql["known_letters"], *zip(*positions, strict=True))
                known |= {event_id(row["dead_letter_id"]) for row in rows}
            if others:
                known |= {row[0] for row in await connection.fetch(self._sql["known_others"], others)}
            missing = [event.event_id for event in published if event.event_id not in known]
            learned = {row[0] for row in await connection.fetch(self._sql["learned"], missing)} if missing else set()
        return [missed for missed in missing if missed not in learned]

    async def checkpoints(self) -> dict[PartitionKey, int]:
        """Return the next offset of each (topic, partition) that was saved with `mark`."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["checkpoints"])
        return {(row["topic"], row["partition"]): row["next_offset"] for row in rows}

    async def unpublished(self) -> int:
        """Count the announcements that are not marked as published."""
        async with borrowed(self._pool, self._dsn) as connection:
            return int(await connection.fetchval(self._sql["unpublished"]))

    async def is_rebuilding(self) -> bool:
        """Return whether a process rebuilds a topic, or waits to."""
        async with borrowed(self._pool, self._dsn) as connection:
            return bool(await connection.fetchval(statements("announcements")["is_rebuilding"], REBUILD_LOCK))

    async def call_relays(self) -> None:
        """Wake every relay."""
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["notify"])

    async def wait_for_leader_lock(self) -> LeaderLock:
        """Wait for the leader lock, also through an outage; cancel it to stop."""
        return await wait_for_leader_lock(self._dsn)

    def listen(self) -> CommitListener:
        """Return a listener for new rows; see `CommitListener`."""
        return listen(self._dsn, OUTBOX_CHANNEL)


def _pending(row: asyncpg.Record) -> Pending:
    event: Ingested | DeadLetter | None = None
    if row["record_id"] is not None and row["store_key"] is not None and row["site"] is not None:
        event = ingested_of(row, row["event_id"])
    elif row["dead_letter_id"] is not None:
        event = _dead_letter(row)
    return Pending(row["id"], row["event_id"], row["topic"], event, row["traceparent"])


def ingested_of(row: asyncpg.Record, announcement: UUID) -> Ingested:
    """Return the announcement that a row of a query holds; `announcement` is its id."""
    return Ingested(
        event_id=str(announcement),
        record_id=str(row["record_id"]),
        kind=row["kind"],
        digest=row["digest"].hex(),
        source_id=row["source_id"],
        site=row["site"],
        captured_at_us=row["captured_at_us"],
        sequence=row["sequence"],
        ingested_at_us=row["ingested_at_us"],
        media_type=row["media_type"],
        size_bytes=row["size_bytes"],
        store_key=row["store_key"],
        store_offset=row["store_offset"],
        width=row["width"],
        height=row["height"],
        duration_us=row["duration_us"],
        ldo_id=row["ldo_id"],
        code=row["code"],
        about=row["about"],
        attributes=row["attributes"].encode(),
    )


def _dead_letter(row: asyncpg.Record) -> DeadLetter:
    return DeadLetter(
        event_id=str(row["event_id"]),
        code=row["reject_code"],
        reason=row["reason"],
        topic=row["message_topic"],
        partition=row["partition"],
        offset=row["message_offset"],
        timestamp_us=row["message_timestamp_us"],
        key=row["key"],
        value=row["value"],
        headers=row["headers"].encode(),
        rejected_at_us=row["rejected_at_us"],
    )
