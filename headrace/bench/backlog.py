"""Drain a backlog: fill a topic, start one worker and the relay, and measure between their commits."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from headrace.bench import bodies
from headrace.bench.figures import CommittedRows, Worked
from headrace.bench.processes import Bench, MeasuredProcess, running, server_cpu_s
from headrace.producers import Publisher
from headrace.producers.source import unix_us
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.events import InputEvent, Kind
from headrace.schemas.topics import ingested_topic, input_topic
from headrace.store.postgres import borrowed, opened_pool, statements

DONE_S_MAX = 600.0
_POLL_S = 0.05
_SQL = statements(str(Path(__file__).parent / "backlog"))
WORKERS = {Kind.FRAME: "frames,clips", Kind.LDO: "cids,ldos"}


@dataclass(frozen=True, slots=True)
class Drained:
    """The result of draining a backlog; `servers` is what each server of the stack has used meanwhile."""

    committed: CommittedRows
    since: datetime
    worker: Worked
    servers: dict[str, Worked] = field(default_factory=dict)


def publish(settings: Settings, events: Iterable[InputEvent]) -> int:
    """Publish events as fast as possible; returns their number.

    Raises:
        NotDeliveredError: Kafka did not acknowledge an event.
    """
    with Publisher.from_settings(settings) as publisher:
        deliveries = [publisher.publish(event) for event in events]
    return len([delivery.result() for delivery in deliveries])


def frames(count: int, *, distinct_share: float = 1.0) -> Iterable[InputEvent]:
    """Yield frames of 200 KB; `distinct_share` of them are distinct, each other one repeats an earlier frame."""
    random = Random(count)  # noqa: S311 - incompressible, not secret
    image = bodies.small_jpeg()
    began_us = unix_us()
    recent: list[InputEvent] = []
    distinct = 0
    for number in range(count):
        if distinct >= (number + 1) * distinct_share and recent:
            yield recent.pop(random.randrange(len(recent)))
            continue
        distinct += 1
        # The seed differs between runs, so that their blobs differ.
        fresh = bodies.frame(number, captured_at_us=began_us, random=Random(began_us + number), image=image)  # noqa: S311
        if distinct_share < 1:
            recent.append(fresh)
        yield fresh


def ldos(count: int) -> Iterable[InputEvent]:
    """Yield LDOs of 2 KB, all distinct."""
    began_us = unix_us()
    random = Random(began_us)  # noqa: S311 - incompressible, not secret
    for number in range(count):
        yield bodies.ldo(number, captured_at_us=began_us, random=random)


def drain(bench: Bench, kind: Kind, count: int, *, workers: int = 1) -> Drained:
    """Start workers and the relay, and wait until `count` messages are recorded and announced.

    Raises:
        HeadraceError: a process ended, or the backlog is not drained after `DONE_S_MAX` seconds.
    """
    return asyncio.run(_drain(bench, kind, count, workers))


def relay_alone(bench: Bench, kind: Kind, count: int) -> tuple[float, Worked]:
    """Record a backlog without a relay, then start one; return its announcements per second, and its usage.

    Raises:
        HeadraceError: as `drain`.
    """
    return asyncio.run(_relay_alone(bench, kind, count))


async def _drain(bench: Bench, kind: Kind, count: int, workers: int) -> Drained:
    async with commits(bench.settings, kind) as queries:
        with running(bench, "relay") as relay, ExitStack() as stack:
            started = [stack.enter_context(running(bench, "worker", "--kinds", WORKERS[kind])) for _ in range(workers)]
            first, began = await _until_recorded(queries, (relay, *started), 1), server_cpu_s(bench)
            await _until_recorded(queries, (relay, *started), count)
            worked, ended = [worker.worked(count) for worker in started], server_cpu_s(bench)
            await _until_announced(queries, relay)
        together = Worked(
            sum(each.cpu_s for each in worked), worked[0].events, max(each.rss_bytes_max for each in worked)
        )
        servers = {name: Worked(cpu_s - began.get(name, 0.0), count - first) for name, cpu_s in ended.items()}
        return Drained(await queries.committed(), queries.since, together, servers)


async def _relay_alone(bench: Bench, kind: Kind, count: int) -> tuple[float, Worked]:
    async with commits(bench.settings, kind) as queries:
        with running(bench, "worker", "--kinds", WORKERS[kind]) as worker:
            await _until_recorded(queries, (worker,), count)
        with running(bench, "relay") as relay:
            await _until_announced(queries, relay)
            published = await queries.published()
            return published.per_s, relay.worked(published.rows)


class Commits:
    """Queries the commits of one kind since a time; raises CatalogUnavailableError or CatalogRefusedError.

    What is asked again and again reads a few rows, so that it costs the catalog nothing.
    """

    def __init__(self, pool: Any, dsn: str, kind: Kind) -> None:
        """Use an open pool; see `commits`."""
        self._pool = pool
        self._dsn = dsn
        self._topic = input_topic(kind).name
        self._announced_topic = ingested_topic(kind).name
        self._before = 0
        self.since = datetime.min.replace(tzinfo=UTC)

    async def begin(self) -> None:
        """Count what is committed from now on."""
        self.since, self._before = await self._row("begin", self._topic)

    async def recorded(self) -> int:
        """Return the number of recorded deliveries."""
        return int((await self._row("begin", self._topic))[1]) - self._before

    async def first_unpublished(self) -> int | None:
        """Return the id of the first announcement that waits; None if none does."""
        waiting: int | None = (await self._row("first_unpublished", self._announced_topic))[0]
        return waiting

    async def committed(self) -> CommittedRows:
        """Return the times of the commits."""
        return CommittedRows(*await self._row("committed", self.since, self._topic))

    async def published(self) -> CommittedRows:
        """Return the times of the announcements, as those of the commits."""
        return CommittedRows(*await self._row("published", self.since, self._announced_topic))

    async def _row(self, name: str, *values: object) -> Any:
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchrow(_SQL[name], *values)


@asynccontextmanager
async def commits(settings: Settings, kind: Kind) -> AsyncIterator[Commits]:
    """Connect to the catalog; commits from before now do not count."""
    dsn = settings.postgres_dsn.get_secret_value()
    async with opened_pool(
        dsn, connections_max=1, statement_s_max=settings.postgres_statement_s_max, application="headrace bench"
    ) as pool:
        queries = Commits(pool, dsn, kind)
        await queries.begin()
        yield queries


async def _until_recorded(queries: Commits, processes: Iterable[MeasuredProcess], count: int) -> int:
    deadline = time.monotonic() + DONE_S_MAX
    while (recorded := await queries.recorded()) < count:
        for process in processes:
            process.sample(recorded)
        if time.monotonic() > deadline:
            raise _late(recorded, count)
        await asyncio.sleep(_POLL_S)
    for process in processes:
        process.sample(recorded)
    return recorded


async def _until_announced(queries: Commits, relay: MeasuredProcess) -> None:
    deadline = time.monotonic() + DONE_S_MAX
    began_at = await queries.first_unpublished()
    while (waiting := await queries.first_unpublished()) is not None:
        relay.sample(waiting - (began_at or waiting))
        if time.monotonic() > deadline:
            raise HeadraceError("bench_late", f"records are not announced after {DONE_S_MAX:.0f} s")
        await asyncio.sleep(_POLL_S)


def _late(recorded: int, count: int) -> HeadraceError:
    return HeadraceError("bench_late", f"only {recorded} of {count} messages are recorded after {DONE_S_MAX:.0f} s")
