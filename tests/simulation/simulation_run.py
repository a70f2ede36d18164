"""One run: workers and relays of the real code among simulated services, until nothing moves, then the invariants."""

import asyncio
import contextlib
import types
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any
from unittest.mock import patch

import headrace.runtime.topic_reader
import headrace.streams.relay.loop
import headrace.streams.relay.outbox_publisher
import headrace.streams.relay.published_offsets
import headrace.streams.worker.batch_pipeline
import headrace.streams.worker.retry
from headrace.runtime.errors import Exit
from headrace.runtime.settings import load_settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.core.quota import Quota
from headrace.streams.relay.loop import Relay
from headrace.streams.relay.topic_relay import TopicRelay
from headrace.streams.worker.batch_pipeline import BatchPipeline, PipelineLimits
from headrace.streams.worker.group_commit import GroupCommit
from headrace.streams.worker.ingest import Ingest
from headrace.streams.worker.ports import IngestPorts
from headrace.streams.worker.retry import Retry, RetryPolicy
from tests.simulation.simulation_faults import Schedule, SimulationStep, Weather
from tests.simulation.simulation_input import KAFKA_AWAY, KINDS, Member, SimulatedFetch, SimulationGroup, Topics
from tests.simulation.simulation_loop import PROCESS, Process, this_process
from tests.simulation.simulation_output import Output, SimulatedAdmin, SimulatedConsumer, SimulatedProducer
from tests.simulation.simulation_stores import SimulatedBlobs, SimulatedCatalog, SimulatedOutbox
from tests.streams.streams_samples import NOW_US

FINISHED_S_MAX = 900  # of simulated time; every fault passes within 40 s
CALM_S = 45  # after everything seems done: what is late arrives, and must change nothing
RETRY = RetryPolicy(delay_s=0.2, delay_s_max=5.0, deadline_s=25.0)
SETTINGS = load_settings(_env_file=None, relay_rows_max=3, relay_poll_s=2.0)


@dataclass(frozen=True)
class System:
    """What is simulated: the real classes, or mutants of them."""

    pipeline: type[BatchPipeline] = BatchPipeline
    ingest: Callable[..., Ingest] = Ingest
    topic_relay: type[TopicRelay] = TopicRelay


@dataclass
class SimulationWorld:
    """Everything outside the processes."""

    schedule: Schedule
    system: System
    weather: Weather = field(init=False)

    def __post_init__(self) -> None:
        self.weather = Weather(self.schedule)
        self.topics = Topics(self.schedule.messages)
        self.group = SimulationGroup(self.weather, self.topics)
        self.blobs = SimulatedBlobs(self.weather, self.topics)
        self.catalog = SimulatedCatalog(self.weather, self.blobs, self.group)
        self.outbox = SimulatedOutbox(self.weather, self.catalog)
        self.output = Output(self.weather)
        self.catalog.say = self.output.say

    def finished(self) -> bool:
        return self.group.finished() and all(row.published for row in self.catalog.outbox.values())


def simulate(schedule: Schedule, system: System | None = None) -> SimulationWorld:
    """Run a schedule; what does not hold is in `world.weather.violations`."""
    world = SimulationWorld(schedule, system or System())
    loop = world.weather.loop
    try:
        with _patched(world):
            loop.run_until_complete(_live(world))
    finally:
        loop.close()
    _check(world)
    return world


async def _live(world: SimulationWorld) -> None:
    roles: dict[str, Callable[[SimulationWorld], Awaitable[None]]] = {
        **{f"worker-{number}": _worker for number in range(world.schedule.workers)},
        **{f"relay-{number}": _relay for number in range(world.schedule.relays)},
    }
    running = [asyncio.create_task(_supervise(world, name, main)) for name, main in roles.items()]
    async with asyncio.timeout(FINISHED_S_MAX + CALM_S):
        with contextlib.suppress(TimeoutError):
            await _until_calm(world)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def _until_calm(world: SimulationWorld) -> None:
    calm_since_s = world.weather.loop.time()
    while world.weather.loop.time() - calm_since_s < CALM_S:
        if world.weather.violations:
            return
        await asyncio.sleep(5.0)
        if not world.finished():
            calm_since_s = world.weather.loop.time()
            if calm_since_s > FINISHED_S_MAX:
                world.weather.hold("I8", "something is never finished", holds=False)
                return


async def _supervise(world: SimulationWorld, name: str, main: Callable[[SimulationWorld], Awaitable[None]]) -> None:
    while True:
        process = Process(name)
        context = copy_context()
        context.run(PROCESS.set, process)
        task = asyncio.get_running_loop().create_task(main(world), context=context)  # type: ignore[arg-type]
        try:
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                world.weather.hold("fault", f"{name} ended with {error!r}", holds=False)
        finally:
            process.kill()
            left = [task for task in process.tasks if not task.done()]
            if left:
                await asyncio.wait(left)
        world.weather.note(f"{name:9} starts again")
        await asyncio.sleep(1.0)


async def _worker(world: SimulationWorld) -> None:
    process = this_process()
    member = world.group.join(process)
    ports = IngestPorts(world.blobs, world.blobs, world.catalog)
    ingest = world.system.ingest(ports, retry=Retry(RETRY))

    def halt(exit_code: int, why: str) -> None:
        world.weather.note(f"{process.name:9} halts: {exit_code} {why}")
        world.weather.hold("fault", f"halted: {why}", holds=exit_code == Exit.TRANSIENT)
        process.kill()
        raise asyncio.CancelledError

    commits = GroupCommit(ingest)
    async with asyncio.TaskGroup() as group:
        for kind in KINDS:
            limits = PipelineLimits(batches_max=3, messages_max=world.schedule.batch_max, bytes_max=10**9)
            pipeline = world.system.pipeline(kind, commits, limits=limits, quota=Quota(10**6, 60.0), halt=halt)
            group.create_task(_agent(world, member, kind, pipeline))
        group.create_task(_commit_offsets(world, member))


async def _agent(world: SimulationWorld, member: Member, kind: Kind, pipeline: BatchPipeline) -> None:
    topic = input_topic(kind).name
    while True:
        taken = world.group.take(member, topic, world.weather.choose(world.schedule.batch_max))
        if not taken:
            await asyncio.sleep(2.0)
            world.group.rejoin(member)
            continue
        for _, messages in groupby(taken, key=lambda message: message.partition):
            await pipeline.submit(SimulatedFetch(world.weather, world.group, member, list(messages)))
        await asyncio.sleep(world.weather.delay_s())


async def _commit_offsets(world: SimulationWorld, member: Member) -> None:
    while True:
        await asyncio.sleep(1.0)
        if member.acked:
            with contextlib.suppress(ConnectionError):
                await world.weather.step(SimulationStep.OFFSETS, lambda: world.group.commit(member), away=KAFKA_AWAY)


async def _relay(world: SimulationWorld) -> None:
    outbox: Any = world.outbox
    relay = Relay(SETTINGS, outbox, now_us=lambda: NOW_US, topic_relay=world.system.topic_relay)
    code = await relay.run(asyncio.Event())
    world.weather.note(f"{this_process().name:9} ended with {code}")


@contextlib.contextmanager
def _patched(world: SimulationWorld) -> Iterator[None]:
    clock = types.SimpleNamespace(monotonic=world.weather.loop.time)
    with contextlib.ExitStack() as stack:
        for module in (
            headrace.streams.worker.batch_pipeline,
            headrace.streams.worker.retry,
            headrace.streams.relay.loop,
            headrace.runtime.topic_reader,
        ):
            stack.enter_context(patch.object(module, "time", clock))
        for module, name, instead in (
            (
                headrace.streams.relay.outbox_publisher,
                "Producer",
                partial(SimulatedProducer, world.weather, world.output),
            ),
            (
                headrace.streams.relay.published_offsets,
                "Consumer",
                partial(SimulatedConsumer, world.weather, world.output),
            ),
            (headrace.streams.relay.published_offsets, "AdminClient", partial(SimulatedAdmin, world.output)),
            (headrace.streams.relay.outbox_publisher, "AdminClient", partial(SimulatedAdmin, world.output)),
        ):
            stack.enter_context(patch.object(module, name, instead))
        yield


def _check(world: SimulationWorld) -> None:
    """Compare what is there in the end with what has to be."""
    hold, catalog, expected = world.weather.hold, world.catalog, world.topics.expected
    places = {key[:3]: row.record_id for key, row in catalog.sightings.items()}
    for expectation in expected:
        is_there = (
            expectation.record in catalog.records if expectation.record else expectation.letter in catalog.dead_letters
        )
        hold("I1", f"{expectation.place} is neither in the catalog nor in the dead letters", holds=is_there)
        if expectation.record:
            hold(
                "I9", f"{expectation.place} has no sighting", holds=places.get(expectation.place) == expectation.record
            )
    known = {expectation.record or expectation.letter for expectation in expected}
    extra = (catalog.records.keys() | catalog.dead_letters.keys()) - known
    hold("I2", f"nobody sent {extra}", holds=not extra)
    hold("I2", "a sighting that nobody sent", holds=places.keys() <= {expectation.place for expectation in expected})
    announced = world.output.announced()
    hold("I3", "something was announced twice", holds=len(set(announced)) == len(announced))
    wanted = {str(expectation.event) for expectation in expected}
    hold("I4", f"missing {wanted - set(announced)}, too many {set(announced) - wanted}", holds=wanted == set(announced))
    for blob in catalog.blobs.values():
        try:
            catalog._check_bytes(blob)
        except (AssertionError, KeyError) as error:
            hold("I5", f"{blob.store_key}: {error}", holds=False)
