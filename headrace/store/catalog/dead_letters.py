"""Dead letters for `headrace dlq`: lists by filter, the history of one, and the claims of a redrive.

A redrive's attempt is a row of `redrives`. It is claimed before its message is published, and noted as published when
Kafka has acknowledged it; the worker's transaction ends it. So a redrive that is killed leaves either nothing, or a
claim that the next one publishes under the same number. An attempt that no worker ended within the time for which Kafka
keeps the message counts as lost: it may be claimed again, under the same number too.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

from headrace.schemas.catalog_rows import DeadLetterRow
from headrace.schemas.topics import INPUT_RETENTION_S
from headrace.store.errors import DeadLetterAmbiguousError, DeadLetterMissingError, RedriveRunningError
from headrace.store.locks import REDRIVE_LOCK
from headrace.store.postgres import borrowed, catalog_errors, opened_pool, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool, Pooled

CANDIDATES_PAGE = 1000
EXPIRED_MAX = 1000  # letters of one statement, with their bytes
NAMED_MAX = 5
STATEMENT_S_MAX = 120.0
_CONNECTIONS_MAX = 3
_NONE = UUID(int=0)


class DeadLetterState(StrEnum):
    """What became of a dead letter."""

    WAITING = "waiting"
    ON_ITS_WAY = "on_its_way"
    INGESTED = "ingested"
    REFUSED_AGAIN = "refused_again"


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterFilters:
    """A filter of dead letters; None matches everything. Times are rejection times, `until_us` excluded."""

    id: UUID | None = None
    code: str | None = None
    site: str | None = None
    source: str | None = None
    topic: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    state: DeadLetterState | None = None


@dataclass(frozen=True, slots=True)
class LetterView:
    """A dead letter without its bytes; `value_bytes` is None where the message had no value."""

    dead_letter_id: UUID
    code: str
    reason: str
    topic: str
    partition: int
    offset: int
    message_timestamp_us: int
    value_bytes: int | None
    site: str | None
    source_id: str | None
    rejected_at_us: int
    attempts: int
    state: str
    redriven_at_us: int | None
    record_id: UUID | None


@dataclass(frozen=True, slots=True)
class RedriveAttempt:
    """One redrive of a dead letter; `code` and `reason` are those of a second refusal."""

    attempt: int
    claimed_at_us: int
    published_at_us: int | None
    ended_at_us: int | None
    record_id: UUID | None
    code: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dead letter that may be redriven; `ended` is the number of its completed attempts."""

    dead_letter_id: UUID
    topic: str
    partition: int
    offset: int
    bytes: int
    ended: int


class Claims:
    """The claims of the running redrive, on the connection that holds its lock.

    So a lost lock is an error before the next message is published.
    """

    def __init__(self, holder: "Pooled", dsn: str, sql: dict[str, str]) -> None:
        """Use the connection that holds the lock; see `DeadLetters.redriving`."""
        self._holder = holder
        self._dsn = dsn
        self._sql = sql

    async def claim(self, attempts: Sequence[tuple[UUID, int]]) -> set[UUID]:
        """Claim attempts, and return those whose message must be published; the others were published meanwhile.

        Raises:
            CatalogUnavailableError: the lock may be lost. Nothing may be published.
        """
        ids, numbers = zip(*attempts, strict=True)
        with catalog_errors(self._dsn):
            async with self._holder.transaction():
                await self._holder.execute(self._sql["claim"], ids, numbers)
                rows = await self._holder.fetch(self._sql["unpublished"], ids, numbers)
        return {row[0] for row in rows}


class DeadLetters:
    """Every method may be repeated; raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        raw = statements("dead_letters")
        parts = {name: raw[name] for name in ("last", "state", "old", "lost_before")}
        parts["input_retention_s"] = str(INPUT_RETENTION_S)
        self._sql = {name: _filled(text, parts) for name, text in raw.items()}

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Connect."""
        async with opened_pool(
            dsn, connections_max=_CONNECTIONS_MAX, statement_s_max=STATEMENT_S_MAX, application="headrace dlq"
        ) as pool:
            yield cls(pool, dsn)

    async def page(self, filters: LetterFilters, limit: int) -> list[LetterView]:
        """Return dead letters, newest first."""
        conditions, values = self._where(filters, [limit])
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["page"].replace("{conditions}", conditions), *values)
        return [LetterView(*row) for row in rows]

    async def counts(self, filters: LetterFilters) -> dict[tuple[str, str], int]:
        """Count dead letters by state and code."""
        conditions, values = self._where(filters, [])
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["counts"].replace("{conditions}", conditions), *values)
        return {(row[0], row[1]): row[2] for row in rows}

    async def letter(self, wanted: str) -> LetterView:
        """Return the dead letter with this id, or whose id begins with these digits.

        Raises:
            DeadLetterMissingError. DeadLetterAmbiguousError.
        """
        digits = wanted.lower().replace("-", "")
        ids: list[UUID] = []
        if 0 < len(digits) <= 32 and set(digits) <= set("0123456789abcdef"):
            ids = await self.named(UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")))
        if len(ids) > 1:
            raise DeadLetterAmbiguousError(wanted, [str(id_) for id_ in ids[:NAMED_MAX]])
        page = await self.page(LetterFilters(id=ids[0]), 1) if ids else []
        if not page:
            raise DeadLetterMissingError(wanted)
        return page[0]

    async def named(self, first: UUID, last: UUID) -> list[UUID]:
        """Return the first ids between two."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["ids_between"], first, last, NAMED_MAX + 1)
        return [row[0] for row in rows]

    async def history(self, dead_letter_id: UUID) -> list[RedriveAttempt]:
        """Return a dead letter's redrives, the first one first."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["history"], dead_letter_id)
        return [RedriveAttempt(*row) for row in rows]

    async def letters(self, ids: Sequence[UUID]) -> dict[UUID, DeadLetterRow]:
        """Return dead letters with their bytes."""
        async with borrowed(self._pool, self._dsn) as connection:
            rows = await connection.fetch(self._sql["letters"], ids)
        return {
            row["dead_letter_id"]: DeadLetterRow(**{**dict(row), "headers": row["headers"].encode()}) for row in rows
        }

    @asynccontextmanager
    async def redriving(self) -> AsyncIterator[Claims]:
        """Hold REDRIVE_LOCK: one redrive runs at a time.

        Raises:
            RedriveRunningError: another redrive is running.
        """
        async with borrowed(self._pool, self._dsn) as holder:
            if not await holder.fetchval(self._sql["try_lock"], REDRIVE_LOCK):
                raise RedriveRunningError
            yield Claims(holder, self._dsn, self._sql)
            await holder.execute(self._sql["unlock"], REDRIVE_LOCK)

    async def candidates(self, filters: LetterFilters) -> AsyncGenerator[Candidate]:
        """Yield the dead letters that may be redriven, in the order of their original positions."""
        after: tuple[str, int, int, UUID] = ("", -1, -1, _NONE)
        while True:
            conditions, values = self._where(filters, [CANDIDATES_PAGE, *after])
            async with borrowed(self._pool, self._dsn) as connection:
                rows = await connection.fetch(self._sql["candidates"].replace("{conditions}", conditions), *values)
            for row in rows:
                yield Candidate(*row)
            if len(rows) < CANDIDATES_PAGE:
                return
            last = rows[-1]
            after = (last["topic"], last["partition"], last["offset"], last["dead_letter_id"])

    async def published(self, attempts: Sequence[tuple[UUID, int]]) -> None:
        """Record that Kafka has acknowledged the messages of these attempts."""
        ids, numbers = zip(*attempts, strict=True)
        async with borrowed(self._pool, self._dsn) as connection:
            await connection.execute(self._sql["published"], ids, numbers)

    async def expired(self, retention_days: int) -> int:
        """Count the dead letters that are older than their retention."""
        async with borrowed(self._pool, self._dsn) as connection:
            return int(await connection.fetchval(self._sql["expired"], retention_days))

    async def expire(self, retention_days: int) -> int:
        """Delete the dead letters that are older than their retention, with their bytes; return the number."""
        total = 0
        while True:
            async with borrowed(self._pool, self._dsn) as connection:
                number = int(await connection.fetchval(self._sql["expire"], retention_days, EXPIRED_MAX))
            total += number
            if not number:
                return total

    def _where(self, filters: LetterFilters, values: list[Any]) -> tuple[str, list[Any]]:
        conditions = ["true"]
        for field in fields(filters):
            value = getattr(filters, field.name)
            if value is not None:
                values.append(value)
                condition = self._sql["state"] + " = {}" if field.name == "state" else _CONDITIONS[field.name]
                conditions.append(condition.format(f"${len(values)}"))
        return " and ".join(conditions), values


_TIME = "timestamptz 'epoch' + {}::bigint * interval '1 microsecond'"
_CONDITIONS = {
    "id": "d.dead_letter_id = {}",
    "code": "d.code = {}",
    "site": "d.site = {}",
    "source": "d.source_id = {}",
    "topic": "d.topic = {}",
    "since_us": f"d.rejected_at >= {_TIME}",
    "until_us": f"d.rejected_at < {_TIME}",
}


def _filled(text: str, parts: dict[str, str]) -> str:
    for name, part in parts.items():
        text = text.replace("{" + name + "}", part)
    return text
