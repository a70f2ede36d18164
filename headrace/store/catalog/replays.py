"""Replays: a fixed selection of announcements in capture order, and how far it is delivered.

`begin` writes the ids of what is selected, each with its position. So what is ingested later does not move a position,
and a position is all that a run has to keep. What an item announces is read when it is delivered: a record that is
erased meanwhile is passed over.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import orjson

from headrace.schemas.digest import record_id
from headrace.schemas.events import Ingested, Kind
from headrace.store.catalog.announcements import event_of, filled
from headrace.store.postgres import borrowed, opened_pool, row_count, statements

if TYPE_CHECKING:
    import asyncpg

    from headrace.store.postgres import Pool

STATEMENT_S_MAX = 600.0  # a selection is a scan, and a sort, of all records


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySelection:
    """A filter of announcements; None matches everything. Times are in microseconds, the later ones excluded.

    `labelled` is a version of labelling functions, and `labels` then those that it gave. Without it `labels` are not
    looked at here: those of LDOs are in their bodies. With `is_own`, what further sites announced is left out.
    """

    kinds: tuple[Kind, ...] | None = None
    sites: tuple[str, ...] | None = None
    source_ids: tuple[str, ...] | None = None
    captured_from_us: int | None = None
    captured_until_us: int | None = None
    ingested_from_us: int | None = None
    ingested_until_us: int | None = None
    digests: tuple[str, ...] | None = None
    record_ids: tuple[UUID, ...] | None = None
    labelled: str | None = None
    labels: tuple[str, ...] | None = None
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class KindPlan:
    """What is selected of one kind. `missing` have no row for their bytes; times are the first and last capture."""

    kind: str
    items: int
    bytes: int
    archived: int
    archived_bytes: int
    missing: int
    first_us: int
    last_us: int


@dataclass(frozen=True, slots=True)
class SitePlan:
    """How many sources of a site are selected, and how many announcements."""

    site: str
    sources: int
    items: int


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """What a selection has. Of the digests that it names, no record has `unknown`; of these `erased` were erased."""

    kinds: tuple[KindPlan, ...] = ()
    sites: tuple[SitePlan, ...] = ()
    unknown: int = 0
    erased: int = 0

    def total(self, name: str) -> int:
        """Return the sum of a number over the kinds."""
        return sum(getattr(kind, name) for kind in self.kinds)


@dataclass(frozen=True, slots=True)
class StoredReplay:
    """A replay that was begun: its request as JSON, the number of its items, and how many are delivered."""

    replay_id: UUID
    request: dict[str, Any] = field(compare=False)
    items: int
    position: int
    has_ended: bool


@dataclass(frozen=True, slots=True)
class Scheduled:
    """The next item: its capture time in microseconds, None where its record is gone."""

    position: int
    record_id: UUID
    captured_at_us: int | None
    is_archived: bool


@dataclass(frozen=True, slots=True)
class Replayed:
    """An item to deliver, read just now."""

    position: int
    event: Ingested
    traceparent: str | None
    archived_at_us: int | None


class Replays:
    """Every method but `begin` may be repeated; raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: "Pool", dsn: str) -> None:
        """Use an opened pool; see `open`."""
        self._pool = pool
        self._dsn = dsn
        sql = statements("replays")
        of_record, of_site = (sql["selected"].replace("{said}", said) for said in ("r", "n"))
        selected = of_record, f"{of_site} {sql['not_own']}"
        self._sql = sql | {name: filled(sql[name], *selected) for name in ("plan", "origins", "choose")}
        self._sql["events"] = filled(sql["events"], sql["item_of_record"], sql["item_of_site"])

    @classmethod
    @asynccontextmanager
    async def open(cls, dsn: str) -> AsyncIterator[Self]:
        """Connect."""
        async with opened_pool(
            dsn, connections_max=1, statement_s_max=STATEMENT_S_MAX, application="headrace replay"
        ) as pool:
            yield cls(pool, dsn)

    async def plan(self, wanted: ReplaySelection) -> ReplayPlan:
        """Return what a selection has now; changes nothing."""
        values = _values(wanted)
        kinds = [KindPlan(*row) for row in await self._rows("plan", *values)]
        sites = [SitePlan(*row) for row in await self._rows("origins", *values)]
        unknown = erased = 0
        if wanted.digests is not None:
            pairs = [(bytes.fromhex(digest), id_) for digest in wanted.digests for id_ in _ids(digest)]
            unknown, erased = (await self._rows("absent", *zip(*pairs, strict=True)))[0]
        return ReplayPlan(tuple(kinds), tuple(sites), unknown, erased)

    async def find(self, name: str) -> StoredReplay | None:
        """Return the replay of a name, or None."""
        rows = await self._rows("replay", name)
        return None if not rows else StoredReplay(rows[0][0], orjson.loads(rows[0][1]), *rows[0][2:])

    async def begin(self, name: str, replay_id: UUID, wanted: ReplaySelection, request: dict[str, Any]) -> StoredReplay:
        """Write down what a new replay delivers.

        Raises:
            CatalogRefusedError: there is one of this name.
        """
        async with borrowed(self._pool, self._dsn) as connection, connection.transaction():
            items = row_count(await connection.execute(self._sql["choose"], *_values(wanted), replay_id))
            text = orjson.dumps(request).decode()
            await connection.execute(self._sql["begin"], name, replay_id, text, items)
        return StoredReplay(replay_id, request, items, 0, has_ended=False)

    async def schedule(self, replay_id: UUID, after: int, limit: int) -> list[Scheduled]:
        """Return the next items after a position."""
        return [Scheduled(*row) for row in await self._rows("schedule", replay_id, after, limit)]

    async def events(self, replay_id: UUID, after: int, until: int) -> list[Replayed]:
        """Return what the items after a position announce, to another one, included; without those that are gone."""
        rows = await self._rows("events", replay_id, after, until)
        return [Replayed(row["position"], event_of(row), row["traceparent"], row["archived_at_us"]) for row in rows]

    async def move(self, replay_id: UUID, position: int) -> None:
        """Record that everything up to a position is delivered."""
        await self._rows("moved", replay_id, position)

    async def end(self, replay_id: UUID) -> None:
        """Record that everything is delivered, and forget the items."""
        await self._rows("end", replay_id)

    async def _rows(self, name: str, *values: Any) -> "list[asyncpg.Record]":
        async with borrowed(self._pool, self._dsn) as connection:
            return list(await connection.fetch(self._sql[name], *values))


def _values(wanted: ReplaySelection) -> tuple[Any, ...]:
    return (
        wanted.kinds,
        wanted.sites,
        wanted.source_ids,
        wanted.captured_from_us,
        wanted.captured_until_us,
        wanted.ingested_from_us,
        wanted.ingested_until_us,
        _wanted_ids(wanted),
        wanted.labelled,
        wanted.labels,
        wanted.is_own,
    )


def _wanted_ids(wanted: ReplaySelection) -> list[UUID] | None:
    """Return the ids that are selected by digest or by id, or None; a digest is found by the ids of its records."""
    if wanted.digests is None:
        return None if wanted.record_ids is None else list(wanted.record_ids)
    ids = [id_ for digest in wanted.digests for id_ in _ids(digest)]
    return ids if wanted.record_ids is None else sorted(set(ids) & set(wanted.record_ids))


def _ids(digest: str) -> list[UUID]:
    return [record_id(kind, digest) for kind in Kind]
