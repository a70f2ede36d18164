"""Reconcile what Kafka acknowledged with the announcements, the catalog and the blob store."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.demo.acknowledgements import Acknowledgements, MessageOffset, RecordKey
from headrace.demo.listener import CONSUMERS, Awaited, Heard
from headrace.demo.report import Findings
from headrace.demo.sources import PublishedCounts
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.digest import record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.postgres import borrowed, opened_pool, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool


_SQL = statements(str(Path(__file__).parent / "reconcile"))
_READS_AT_ONCE_MAX = 16


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """What the sources planned to publish (None if they were stopped early) and what they published."""

    planned: PublishedCounts | None
    done: PublishedCounts


@dataclass(frozen=True, slots=True)
class RecordLocation:
    """A record and the location of its bytes; `was_there` if it was ingested before the demo began."""

    identity: RecordKey
    was_there: bool
    size_bytes: int
    store_key: str | None
    store_offset: int | None


class DemoEvidence:
    """Reads the catalog; raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: Any, dsn: str, since: datetime) -> None:
        """Use an open pool; see `opened`."""
        self._pool = pool
        self._dsn = dsn
        self._since = since

    async def sightings(self, offsets: Iterable[MessageOffset]) -> dict[MessageOffset, RecordKey]:
        """Return the record that was seen at each of these offsets."""
        rows = await self._fetch("sightings", *_columns(offsets), self._since)
        return {MessageOffset(*row[:3]): RecordKey(Kind(row[3]), row[4]) for row in rows}

    async def dead_letters(self, offsets: Iterable[MessageOffset]) -> dict[MessageOffset, str]:
        """Return the code of the dead letter at each of these offsets."""
        rows = await self._fetch("dead_letters", *_columns(offsets), self._since)
        return {MessageOffset(*row[:3]): row[3] for row in rows}

    async def records(self, keys: Iterable[RecordKey]) -> list[RecordLocation]:
        """Return those of the records that exist."""
        ids = [record_id(key.kind, key.digest) for key in keys]
        rows = await self._fetch("records", ids, self._since)
        return [RecordLocation(RecordKey(Kind(row[0]), row[1]), *row[2:]) for row in rows]

    async def _fetch(self, name: str, *values: object) -> list[Any]:
        async with borrowed(self._pool, self._dsn) as connection:
            return list(await connection.fetch(_SQL[name], *values))


@dataclass(frozen=True, slots=True)
class DemoOutcome:
    """What a demo published, what it expected to be announced, and what was announced."""

    acknowledgements: Acknowledgements
    heard: Heard
    expected: Awaited
    sources: SourceCounts


async def reconcile(settings: Settings, evidence: DemoEvidence, outcome: DemoOutcome) -> Findings:
    """Read the catalog and the store, and count."""
    acknowledgements, heard, sources = outcome.acknowledgements, outcome.heard, outcome.sources
    good, poison = acknowledgements.good, acknowledgements.poison
    sightings = await evidence.sightings(good)
    letters = await evidence.dead_letters(poison)
    stored = await evidence.records(good.values())
    new = {record.identity: record for record in stored if not record.was_there}
    bodies = {f"{key.kind} {key.digest}": record for key, record in new.items()}
    lost = await verified(settings, bodies)
    # A frame that was ingested before this demo already has a thumbnail.
    lost_thumbnails = await verified(settings, heard.thumbnails)
    wrong = [f"{offset} was recorded as {key}" for offset, key in sightings.items() if key != good[offset]]
    frames = outcome.expected.frames
    return Findings(
        published=acknowledgements.published,
        unacknowledged=len(acknowledgements.faults),
        expected_distinct=len(outcome.expected.records),
        expected_dead_letters=acknowledgements.dead_letters(),
        recorded=len(sightings),
        distinct=len(new),
        known_before=len(stored) - len(new),
        dead_letters=dict(sorted(Counter(letters.values()).items())),
        dead_letters_announced=sum(1 for offset in letters if offset in heard.dead_letters),
        announced=sum(1 for key in new if key in heard.announcements),
        announced_twice=sum(1 for count in heard.event_ids.values() if count > 1),
        frames_distinct=len(frames),
        frames_published=sources.done.frames,
        frames_planned=sources.planned.frames if sources.planned else None,
        reports_published=sources.done.reports,
        reports_planned=sources.planned.reports if sources.planned else None,
        consumed={name: len(heard.frames[name] & frames) for name in CONSUMERS},
        blobs=len({key.digest for key in new}),
        blobs_verified=len(bodies) - len(lost),
        thumbnails=len(heard.thumbnails),
        thumbnails_verified=len(heard.thumbnails) - len(lost_thumbnails),
        latencies_ms=latencies_ms(good, heard),
        strange=len(heard.faults) + len(wrong),
        faults=[*acknowledgements.faults, *heard.faults, *wrong, *lost, *lost_thumbnails],
    )


def latencies_ms(good: dict[MessageOffset, RecordKey], heard: Heard) -> list[float]:
    """Return the milliseconds from the arrival of each record's first message in Kafka to its announcement."""
    first: dict[RecordKey, int] = {}
    for offset, key in good.items():
        at_ms = heard.appended_at_ms.get(offset)
        if at_ms is not None:
            first[key] = min(at_ms, first.get(key, at_ms))
    return [float(heard.announced_at_ms[key] - at_ms) for key, at_ms in first.items() if key in heard.announced_at_ms]


@asynccontextmanager
async def opened(settings: Settings, since: datetime) -> AsyncIterator[DemoEvidence]:
    """Connect to the catalog; rows from before `since`, by its own clock, do not count."""
    dsn = settings.postgres_dsn.get_secret_value()
    async with _pool(settings, dsn) as pool:
        yield DemoEvidence(pool, dsn, since)


async def catalog_now(settings: Settings) -> datetime:
    """Return the time of the catalog's clock."""
    dsn = settings.postgres_dsn.get_secret_value()
    async with _pool(settings, dsn) as pool, borrowed(pool, dsn) as connection:
        now: datetime = await connection.fetchval(_SQL["now"])
        return now


async def verified(settings: Settings, bodies: Mapping[str, RecordLocation | str]) -> list[str]:
    """Read every body from the store and verify its digest; returns a sentence for each mismatch.

    The keys name the bodies in these sentences; a value is a record, or the digest of the object with that key.
    """
    blobs = Blobs.from_settings(settings)
    semaphore = asyncio.Semaphore(_READS_AT_ONCE_MAX)

    async def check(name: str, body: RecordLocation | str) -> str | None:
        async with semaphore:
            return await _fault(blobs, name, body)

    answers = await asyncio.gather(*(check(name, body) for name, body in bodies.items()))
    return [answer for answer in answers if answer is not None]


async def _fault(blobs: Blobs, name: str, body: RecordLocation | str) -> str | None:
    match body:
        case str(digest):
            key, span = name, None
        case RecordLocation(record_key, _, size_bytes, store_key, store_offset):
            if store_key is None:
                return f"{name} has no blob in the catalog"
            digest, key = record_key.digest, store_key
            span = None if store_offset is None else (store_offset, size_bytes)
    try:
        data = await (blobs.get(key) if span is None else blobs.get(key, offset=span[0], length=span[1]))
    except HeadraceError as error:
        return f"{name} cannot be read: {error.what}"
    actual = sha256_hex(data)
    return None if actual == digest else f"{name} hashes to {actual}, not to {digest}"


def _pool(settings: Settings, dsn: str) -> "AbstractAsyncContextManager[Pool]":
    return opened_pool(
        dsn, connections_max=2, statement_s_max=settings.postgres_statement_s_max, application="headrace demo"
    )


def _columns(offsets: Iterable[MessageOffset]) -> tuple[list[str], list[int], list[int]]:
    rows = list(offsets)
    return [row.topic for row in rows], [row.partition for row in rows], [row.offset for row in rows]
