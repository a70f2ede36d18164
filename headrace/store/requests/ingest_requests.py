"""Ingest requests of the gateway's clients, with their items, the history of their state, and their captures."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from headrace.store.locks import EVENTS_LOCK
from headrace.store.postgres import borrowed, delete_in_steps, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool, Pooled

ITEMS_MAX = 1000
STANDING_MAX = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRequest:
    """A new request. `asked` is a JSON object; `sealed` has the encrypted credentials."""

    request_id: UUID
    kind: str
    actor: str
    site: str
    source_id: str
    state: str
    asked: str = "{}"
    sealed: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestItem:
    """A frame or clip of a request: the position of its message, or the reason why there is none."""

    index: int
    filename: str | None
    kind: str | None = None
    digest: str | None = None
    media_type: str | None = None
    size_bytes: int | None = None
    width: int | None = None
    height: int | None = None
    exif: str | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class IngestRequest:
    """A request and its state; times are Unix seconds."""

    request_id: UUID
    kind: str
    actor: str
    site: str
    source_id: str
    state: str
    reason: str | None
    asked: str
    sealed: bytes | None
    evidence: str
    created_at_s: float
    updated_at_s: float


@dataclass(frozen=True, slots=True)
class StateEvent:
    """One change of a request's state; ids grow in the order of the commits."""

    id: int
    request_id: UUID
    site: str
    source_id: str
    state: str
    detail: str
    at_s: float


_COLUMNS = (
    *("index", "filename", "kind", "digest", "media_type", "size_bytes", "width", "height", "exif"),
    *("topic", "partition", "offset", "code", "reason"),
)


class IngestRequests:
    """The tables of requests. Raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("ingest_requests")

    async def add(self, asked: NewRequest, items: Sequence[RequestItem] = ()) -> None:
        """Insert a request with its items so far."""
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            await connection.execute(
                self._sql["add"],
                asked.request_id,
                asked.kind,
                asked.actor,
                asked.site,
                asked.source_id,
                asked.state,
                asked.asked,
                asked.sealed,
            )
            await self._add_items(connection, asked.request_id, items)
            await self._event(connection, asked.request_id, (asked.site, asked.source_id, asked.state, "{}"))

    async def add_items(self, request_id: UUID, items: Sequence[RequestItem]) -> None:
        """Add items; may be repeated."""
        async with borrowed(self._pool, self._dsn) as connection:
            await self._add_items(connection, request_id, items)

    async def get(self, request_id: UUID) -> IngestRequest | None:
        """Return a request, or None."""
        async with borrowed(self._pool, self._dsn) as connection:
            row = await connection.fetchrow(self._sql["request"], request_id)
        return None if row is None else IngestRequest(*row)

    async def items(self, request_id: UUID) -> list[RequestItem]:
        """Return a request's items, at most ITEMS_MAX."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["items"], request_id, ITEMS_MAX)
        return [RequestItem(**dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    async def advance(
        self, request_id: UUID, *, before: Collection[str], state: str, evidence: str, reason: str | None = None
    ) -> bool:
        """Move a request to another state; return False if its state is not in `before`."""
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            row = await connection.fetchrow(self._sql["advance"], request_id, [*before], state, reason, evidence)
            if row is None:
                return False
            await self._event(connection, request_id, (*row, state, evidence))
            return True

    async def events_after(self, last: int, limit: int) -> list[StateEvent]:
        """Return the changes after the id `last`, in order."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["events_after"], last, limit)
        return [StateEvent(*row) for row in rows]

    async def standing(
        self, states: Collection[str], *, site: str | None = None, source_id: str | None = None
    ) -> list[IngestRequest]:
        """Return the standing captures in these states, by site and source, at most STANDING_MAX."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["standing"], [*states], site, source_id, STANDING_MAX)
        return [IngestRequest(*row) for row in rows]

    async def newest_event(self) -> int:
        """Return the id of the newest change, or 0."""
        async with borrowed(self._pool, self._dsn) as connection:
            return int(await connection.fetchval(self._sql["newest_event"]))

    async def expire(self, days: float) -> None:
        """Delete requests older than `days`; what they ingested stays."""
        await delete_in_steps(self._pool, self._dsn, self._sql["expire"], days)

    async def _add_items(self, connection: "Pooled", request_id: UUID, items: Sequence[RequestItem]) -> None:
        if items:
            columns = [[getattr(item, name) for item in items] for name in _COLUMNS]
            await connection.execute(self._sql["add_items"], request_id, *columns)

    async def _event(self, connection: "Pooled", request_id: UUID, what: tuple[str, str, str, str]) -> None:
        await connection.execute(self._sql["order_events"], EVENTS_LOCK)
        await connection.execute(self._sql["event"], request_id, *what)


AT_ONCE_MAX = 50


class Captures:
    """The requests of RTSP captures and their workers. Raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool."""
        self._pool = pool
        self._dsn = dsn
        self._sql = statements("ingest_requests")

    async def renew_lease(self, request_id: UUID, worker: str, evidence: str, running: Collection[str]) -> bool:
        """Renew a worker's lease of a request; return False if another worker holds it."""
        async with borrowed(self._pool, self._dsn) as connection:
            return bool(await connection.fetchval(self._sql["renew_lease"], request_id, worker, evidence, [*running]))

    async def release_expired_leases(self, running: Collection[str], silent_s: float) -> list[tuple[UUID, str]]:
        """Release the requests of workers without a heartbeat; return each with its evidence."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["release_expired_leases"], [*running], silent_s, AT_ONCE_MAX)
        return [(row["request_id"], row["evidence"]) for row in rows]

    async def unacquired(self, state: str, since_s: float) -> list[IngestRequest]:
        """Return requests that have been in a state for `since_s`, each to one caller only."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["unacquired"], state, since_s, AT_ONCE_MAX)
        return [IngestRequest(*row) for row in rows]
