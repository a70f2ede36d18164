"""Drain a backlog: fill a topic, start one worker and the relay, and measure between their commits."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

from headrace.bench import bodies
from headrace.bench.figures import CommittedRows, Worked
from headrace.bench.processes import MeasuredProcess, running
from headrace.native import StackInfo
from headrace.producers import Publisher
from headrace.producers.source import unix_us
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.events import InputEvent, Kind
from headrace.schemas.topics import input_topic
from headrace.store.postgres import borrowed, opened_pool, statements

DONE_S_MAX = 600.0
_POLL_S = 0.05
_SQL = statements(str(Path(__file__).parent / "backlog"))
_WORKERS = {Kind.FRAME: "frames,clips", Kind.LDO: "cids,ldos"}


@dataclass(frozen=True, slots=True)
class Bench:
    """The environment of a benchmark: the stack, its settings, and a folder for logs."""

    info: StackInfo
    settings: Settings
    folder: Path


@dataclass(frozen=True, slots=True)
class Drained:
    """The result of draining a backlog."""

    committed: CommittedRows
    worker: Worked


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


def drain(bench: Bench, kind: Kind, count: int) -> Drained:
    """Start a worker and the relay, and wait until `count` messages are recorded and announced.

    Raises:
        HeadraceError: a process ended, or the backlog is not drained after `DONE_S_MAX` seconds.
    """
    return asyncio.run(_drain(bench, kind, count))


async def _drain(bench: Bench, kind: Kind, count: int) -> Drained:
    env = bench.info.env()
    async with commits(bench.settings, input_topic(kind).name) as queries:
        with ExitStack() as stack:
            relay = stack.enter_context(running(("relay",), env, bench.folder))
            worker = stack.enter_context(running(("worker", "--kinds", _WORKERS[kind]), env, bench.folder))
            await _until_recorded(queries, worker, relay, count)
            worked = worker.worked(count)
            await _until_announced(queries, relay)
        return Drained(await queries.committed(), worked)


class Commits:
    """Queries the commits of one topic since a time; raises CatalogUnavailableError or CatalogRefusedError."""

    def __init__(self, pool: Any, dsn: str, topic: str, since: datetime) -> None:
        """Use an open pool; see `commits`."""
        self._pool = pool
        self._dsn = dsn
        self._topic = topic
        self._since = since

    async def recorded(self) -> int:
        """Return the number of recorded deliveries."""
        return int((await self._row("recorded", self._since, self._topic))[0])

    async def unpublished(self) -> int:
        """Return the number of records that are not announced yet."""
        return int((await self._row("unpublished"))[0])

    async def committed(self) -> CommittedRows:
        """Return the times of the commits."""
        return CommittedRows(*await self._row("committed", self._since, self._topic))

    async def _row(self, name: str, *values: object) -> Any:
        async with borrowed(self._pool, self._dsn) as connection:
            return await connection.fetchrow(_SQL[name], *values)


@asynccontextmanager
async def commits(settings: Settings, topic: str) -> AsyncIterator[Commits]:
    """Connect to the catalog; commits from before now do not count."""
    dsn = settings.postgres_dsn.get_secret_value()
    async with opened_pool(
        dsn, connections_max=1, statement_s_max=settings.postgres_statement_s_max, application="headrace bench"
    ) as pool:
        async with borrowed(pool, dsn) as connection:
            since: datetime = await connection.fetchval(_SQL["now"])
        yield Commits(pool, dsn, topic, since)


async def _until_recorded(queries: Commits, worker: MeasuredProcess, relay: MeasuredProcess, count: int) -> None:
    deadline = time.monotonic() + DONE_S_MAX
    while (recorded := await queries.recorded()) < count:
        worker.sample(recorded)
        relay.sample(recorded)
        if time.monotonic() > deadline:
            raise _late(recorded, count)
        await asyncio.sleep(_POLL_S)


async def _until_announced(queries: Commits, relay: MeasuredProcess) -> None:
    deadline = time.monotonic() + DONE_S_MAX
    while left := await queries.unpublished():
        relay.sample(1)
        if time.monotonic() > deadline:
            raise HeadraceError("bench_late", f"{left} records are not announced after {DONE_S_MAX:.0f} s")
        await asyncio.sleep(_POLL_S)


def _late(recorded: int, count: int) -> HeadraceError:
    return HeadraceError("bench_late", f"only {recorded} of {count} messages are recorded after {DONE_S_MAX:.0f} s")
