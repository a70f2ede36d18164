"""What the catalog announced, in the order in which it did, for as long as the records are kept.

Records of one transaction have one time, so rows are ordered by it and then by the position of their first delivery:
that is the order in which the relay published them, for each source.

The point at which a reader of this list goes on in the topic is the relay's checkpoint. A row is marked as published
after Kafka committed it, and the checkpoint behind it moves in the same transaction as the mark, or later. So a row
that was marked before the checkpoint was read is in this list, and any other one is at the checkpoint or behind it. One
that is both, because a relay had marked it and not yet moved the checkpoint, is found by reading on (`Point`).
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from headrace.runtime.errors import HeadraceError
from headrace.schemas.digest import event_id
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.topics import PartitionKey
from headrace.store.catalog.outbox import ingested_of
from headrace.store.catalog.pagination import TIME_US_MAX
from headrace.store.catalog.recovery import collection_state
from headrace.store.postgres import borrowed, opened_pool, statements

if TYPE_CHECKING:
    import asyncpg

    from headrace.store.postgres import Pool

WINDOW_ROWS = 1000
STATEMENT_S_MAX = 120.0

Order: TypeAlias = tuple[int, str, int, int, int, str]
"""Ingestion time, then topic, partition, offset and index of the first delivery, and the event's id."""


@dataclass(frozen=True, slots=True)
class Announced:
    """One announcement as the catalog has it now; `order` is its place among those of its kind.

    With `archived_at_us` its key and offset are those in the archive.
    """

    event: Ingested
    traceparent: str | None
    archived_at_us: int | None
    order: Order


@dataclass(frozen=True, slots=True)
class Point:
    """Where the catalog ends and a topic begins: what was published before `at_us`, and the relay's checkpoints."""

    at_us: int
    checkpoints: Mapping[PartitionKey, int]


class Announcements:
    """Reads announcements. Every method may be repeated; raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("announcements")
        self._window = filled(self._sql["window"], self._sql["window_of_record"], self._sql["window_of_site"])

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str, application: str) -> AsyncIterator[Self]:
        """Connect."""
        async with opened_pool(
            dsn, connections_max=1, statement_s_max=STATEMENT_S_MAX, application=application
        ) as pool:
            yield cls(pool, dsn)

    async def point(self, topic: str) -> Point:
        """Return where a reader of the catalog goes on in a topic: PostgreSQL's time, and the relay's checkpoints.

        Raises:
            HeadraceError: after a recovery, the catalog does not know yet all that is below the checkpoints.
        """
        async with borrowed(self._pool, self._dsn) as connection:
            why = (await collection_state(connection)).why_suspended
        if why is not None:
            raise HeadraceError("recovery_unfinished", why, hint="run it again when the recovery is over")
        rows = await self._rows("point", topic)
        checkpoints = {(row["topic"], row["partition"]): row["next_offset"] for row in rows if row["topic"] is not None}
        return Point(rows[0]["at_us"], checkpoints)

    async def now_us(self) -> int:
        """Return PostgreSQL's time."""
        return int((await self._rows("now"))[0][0])

    async def windows(
        self, kind: Kind, *, since_us: int, until_us: int, published_before_us: int = TIME_US_MAX
    ) -> AsyncGenerator[list[Announced]]:
        """Yield what is announced of a kind, in order, in lists of about `WINDOW_ROWS`.

        Times are ingestion times, the last excluded. What was published at `published_before_us` or later, is not
        published yet or is set aside is left out; so is what has no row for its bytes, which `headrace fsck` lists.
        """
        while since_us < until_us:
            ends_at = (await self._rows("window_end", kind, since_us, until_us, WINDOW_ROWS))[0]["ends_us"]
            end_us = until_us if ends_at is None else ends_at + 1
            async with borrowed(self._pool, self._dsn) as connection:
                rows = await connection.fetch(self._window, kind, since_us, end_us, published_before_us)
            if rows:
                yield sorted(map(_announced, rows), key=lambda announced: announced.order)
            since_us = end_us

    async def _rows(self, name: str, *values: Any) -> "list[asyncpg.Record]":
        async with borrowed(self._pool, self._dsn) as connection:
            return list(await connection.fetch(self._sql[name], *values))


def filled(statement: str, of_record: str, of_site: str) -> str:
    """Return a statement with the columns of an announcement, and the rows that two conditions select."""
    sql = statements("announcements")
    announced = sql["announced"].replace("{of_record}", of_record).replace("{of_site}", of_site)
    return statement.replace("{columns}", sql["columns"]).replace("{announced}", announced)


def event_of(row: "asyncpg.Record") -> Ingested:
    """Return the announcement in a row of `filled`."""
    return ingested_of(row, event_id(row["record_id"], row["further"]))


def _announced(row: "asyncpg.Record") -> Announced:
    event = event_of(row)
    delivered = (row["topic"] or "", row["partition"] or 0, row["offset"] or 0, row["index"] or 0)
    return Announced(
        event, row["traceparent"], row["archived_at_us"], (event.ingested_at_us, *delivered, event.event_id)
    )
