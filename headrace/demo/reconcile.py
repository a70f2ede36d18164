"""From what was acknowledged, heard and found to the numbers of the report."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.demo.ledger import AckLedger, MessageOffset, RecordKey
from headrace.demo.listener import CONSUMERS, Awaited, Heard
from headrace.demo.report import Findings
from headrace.demo.sources import Done
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.digest import record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.postgres import borrowed, opened_pool, statements

if TYPE_CHECKING:
    from headrace.store.postgres import Pool


@dataclass(frozen=True, slots=True)
class Played:
    """What the sources had to publish, None where they were ended before, and what they published."""

    planned: Done | None
    done: Done


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


async def weigh(
    settings: Settings, evidence: DemoEvidence, ledger: AckLedger, heard: Heard, *, expected: Awaited, played: Played
) -> Findings:
    """Read catalog and store, and count."""
    good, poison = ledger.good, ledger.poison
    sightings = await evidence.sightings(good)
    letters = await evidence.dead_letters(poison)
    stored = await evidence.records(good.values())
    new = {one.identity: one for one in stored if not one.was_there}
    kept = {f"{one.identity.kind} {one.identity.digest}": one for one in new.values()}
    lost = await verified(settings, kept)
    # A frame that was known before this demonstration has its thumbnail from then.
    lost_thumbnails = await verified(settings, heard.thumbnails)
    wrong = [f"{place} was recorded as {sightings[place]}" for place in sightings if sightings[place] != good[place]]
    frames = expected.frames
    return Findings(
        published=ledger.published,
        unacknowledged=len(ledger.faults),
        expected_distinct=len(expected.records),
        expected_dead_letters=ledger.dead_letters(),
        recorded=len(sightings),
        distinct=len(new),
        known_before=len(stored) - len(new),
        dead_letters=dict(sorted(Counter(letters.values()).items())),
        dead_letters_announced=sum(1 for place in letters if place in heard.dead_letters),
        announced=sum(1 for one in new if one in heard.announcements),
        announced_twice=sum(1 for count in heard.event_ids.values() if count > 1),
        frames_distinct=len(frames),
        frames_published=played.done.frames,
        frames_planned=played.planned.frames if played.planned else None,
        reports_published=played.done.reports,
        reports_planned=played.planned.reports if played.planned else None,
        consumed={name: len(heard.frames[name] & frames) for name in CONSUMERS},
        blobs=len({one.identity.digest for one in new.values()}),
        blobs_verified=len(kept) - len(lost),
        thumbnails=len(heard.thumbnails),
        thumbnails_verified=len(heard.thumbnails) - len(lost_thumbnails),
        latencies_ms=latencies_ms(good, heard),
        strange=len(heard.faults) + len(wrong),
        faults=[*ledger.faults, *heard.faults, *wrong, *lost, *lost_thumbnails],
    )


def latencies_ms(good: dict[MessageOffset, RecordKey], heard: Heard) -> list[float]:
    """Return, for each record, the time from its first message's arrival in Kafka to its announcement's."""
    first: dict[RecordKey, int] = {}
    for place, identity in good.items():
        at_ms = heard.appended_at_ms.get(place)
        if at_ms is not None:
            first[identity] = min(at_ms, first.get(identity, at_ms))
    return [float(heard.announced_at_ms[one] - at_ms) for one, at_ms in first.items() if one in heard.announced_at_ms]


_SQL = statements(str(Path(__file__).parent / "reconcile"))
_READS_AT_ONCE_MAX = 16


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
