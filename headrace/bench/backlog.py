"""Full topics and stopped workers: then one worker and the relay start, and the clock runs between their commits."""

import asyncio
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random

from headrace.bench import bodies
from headrace.bench.catalog import Commits, commits
from headrace.bench.figures import CommittedRows, Worked
from headrace.bench.processes import Watched, running
from headrace.native import StackInfo
from headrace.producers import Publisher
from headrace.producers.source import unix_us
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.events import InputEvent, Kind
from headrace.schemas.topics import input_topic

DONE_S_MAX = 600.0
_LOOK_S = 0.05
_WORKERS = {Kind.FRAME: "frames,clips", Kind.LDO: "cids,ldos"}


@dataclass(frozen=True, slots=True)
class Bench:
    """Where it runs: the stack, its settings, and a folder for logs."""

    info: StackInfo
    settings: Settings
    folder: Path


@dataclass(frozen=True, slots=True)
class Drained:
    """How a backlog was worked off."""

    committed: CommittedRows
    worker: Worked


def publish(settings: Settings, events: Iterable[InputEvent]) -> int:
    """Publish events as fast as Kafka takes them; returns how many there were.

    Raises:
        NotDelivered: Kafka did not acknowledge one.
    """
    with Publisher.from_settings(settings) as publisher:
        deliveries = [publisher.publish(event) for event in events]
    return len([delivery.result() for delivery in deliveries])


def frames(count: int, *, distinct_share: float = 1.0) -> Iterable[InputEvent]:
    """Yield frames of 200 KB, of which only a share has bytes of its own; each of the others repeats an earlier one."""
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
        # The seed differs between runs, so that no run finds another one's blobs.
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
    """Start a worker and the relay on what is published, and wait until all of it is recorded and announced.

    Raises:
        HeadraceError: one of them ended, or it is not done after `DONE_S_MAX` seconds.
    """
    return asyncio.run(_drain(bench, kind, count))


async def _drain(bench: Bench, kind: Kind, count: int) -> Drained:
    env = bench.info.env()
    async with commits(bench.settings, input_topic(kind).name) as asked:
        with ExitStack() as stack:
            relay = stack.enter_context(running(("relay",), env, bench.folder))
            worker = stack.enter_context(running(("worker", "--kinds", _WORKERS[kind]), env, bench.folder))
            await _until_recorded(asked, worker, relay, count)
            worked = worker.worked(count)
            await _until_announced(asked, relay)
        return Drained(await asked.committed(), worked)


async def _until_recorded(asked: Commits, worker: Watched, relay: Watched, count: int) -> None:
    deadline = time.monotonic() + DONE_S_MAX
    while (recorded := await asked.recorded()) < count:
        worker.look(recorded)
        relay.look(recorded)
        if time.monotonic() > deadline:
            raise _late(recorded, count)
        await asyncio.sleep(_LOOK_S)


async def _until_announced(asked: Commits, relay: Watched) -> None:
    deadline = time.monotonic() + DONE_S_MAX
    while left := await asked.unpublished():
        relay.look(1)
        if time.monotonic() > deadline:
            raise HeadraceError("bench_late", f"{left} records are not announced after {DONE_S_MAX:.0f} s")
        await asyncio.sleep(_LOOK_S)


def _late(recorded: int, count: int) -> HeadraceError:
    return HeadraceError("bench_late", f"only {recorded} of {count} messages are recorded after {DONE_S_MAX:.0f} s")
