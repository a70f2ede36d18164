"""`headrace mirror`: MirrorMaker 2 for one target as a child process, watched.

In dedicated mode a failed task stays failed until its worker starts again, so this process ends with it, and whatever
supervises this process starts both again. What MirrorMaker copied is committed at the target together with how far it
has read, so an end at any moment neither loses nor repeats a message.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from confluent_kafka.admin import AdminClient

from headrace.native.prepare import install_kafka
from headrace.runtime.background_task import first
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import reach_kafka, wait_for_kafka
from headrace.runtime.liveness import ask_kafka, liveness
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.sites.catalog_losses import CatalogLosses
from headrace.sites.clusters import ensure_mirrored, partition_counts, read_topology, secret_of, settings_of
from headrace.sites.link_watch import LinkWatch
from headrace.sites.memory import ensure_memory
from headrace.sites.mirror_maker import Configuration, MirrorMaker
from headrace.sites.mm2 import jaas, largest_message_s, logins, properties
from headrace.sites.plan import mirrored_topics
from headrace.sites.topology import Flow, Topology
from headrace.sites.transform import transform_classes

POLL_S = 3.0
_PREPARE_S = 30.0
"""Between two comparisons of partitions: each makes a connection over the link."""


async def mirror(settings: Settings, file: Path, target: str | None, stop: asyncio.Event) -> int:
    """Mirror everything that flows to a target, until `stop` is set; returns the exit code.

    Raises:
        HeadraceError: the file is invalid, the target is unavailable at the start, or MirrorMaker failed.
    """
    topology = read_topology(file)
    name = topology.only_target(target, where=str(file))
    java = await asyncio.to_thread(install_kafka, _progress)
    classes = await asyncio.to_thread(transform_classes, java, _progress)
    home = settings.state_dir / "mirror" / name
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    running = Mirror(settings, file, name)
    running.topology = topology
    near = settings_of(settings, topology.sites[name], name)
    admin = await wait_for_kafka(near, stop=stop)
    await asyncio.to_thread(ensure_memory, near, admin)
    async with (
        _running(MirrorMaker(home, java, classes)) as maker,
        liveness(
            settings,
            waiting=lambda: True,
            progress=lambda: running.looks,
            doing=lambda: running.doing,
            probes={"kafka": lambda: ask_kafka(near, admin), "mirror": running.check_ready},
        ),
    ):
        get_log().info(Action.STARTED, target=name)
        try:
            while not stop.is_set():
                await running.step_or_wait(maker)
                await first(POLL_S, stop)
        finally:
            running.close()
    return Exit.OK


@asynccontextmanager
async def _running(maker: MirrorMaker) -> AsyncIterator[MirrorMaker]:
    try:
        yield maker
    finally:
        await maker.stop()


class Mirror:
    """Keeps a MirrorMaker as the file says, and watches its links; `looks` counts how often it did."""

    def __init__(self, settings: Settings, file: Path, target: str) -> None:
        """Read the file for this target."""
        self.topology = Topology(sites={})
        self.looks = 0
        self._settings = settings
        self._file = file
        self._target = target
        self._prepared: dict[Flow, float] = {}
        """When the copies of each flow were last compared with its source, by the monotonic clock."""
        self._watches: dict[Flow, LinkWatch] = {}
        self._complaint = ""
        self._losses = CatalogLosses(settings)

    @property
    def doing(self) -> str:
        """What `/livez` reports."""
        waiting = sum(watch.status.messages for watch in self._watches.values())
        return f"{len(self._watches)} links, {waiting} messages wait"

    async def check_ready(self) -> None:
        """Check that every open link has tasks that run, except where the source does not answer.

        Raises:
            HeadraceError: one has not.
        """
        for watch in self._watches.values():
            if not watch.status.problem and watch.status.states.get("RUNNING", 0) == 0:
                raise HeadraceError("mirror_starting", f"no task of {watch.status.link} runs yet")
        if not self._watches and self._open_flows():
            raise HeadraceError("mirror_starting", "no link is prepared yet")

    async def step_or_wait(self, maker: MirrorMaker) -> None:
        """Take a step; a target that is away for a while is waited for, as MirrorMaker does.

        Raises what `step` raises.
        """
        try:
            await self.step(maker)
        except HeadraceError as error:
            if error.exit_code != Exit.UNREACHABLE:
                raise
            get_log().warning(Action.WAITING, service="kafka", where=error.where, why=error.what)
        self.looks += 1

    async def step(self, maker: MirrorMaker) -> None:
        """Read the file, start or restart MirrorMaker where it says something else, and look at each link.

        Raises:
            HeadraceError: MirrorMaker ended, a task failed, nothing is copied, or the target does not answer.
        """
        if maker.end:
            raise HeadraceError("mirror_maker_ended", f"MirrorMaker ended: {maker.end}", where=str(maker.log))
        self._read()
        flows = self._open_flows()
        due = [flow for flow in flows if time.monotonic() - self._prepared.get(flow, -_PREPARE_S) >= _PREPARE_S]
        await asyncio.gather(*(asyncio.to_thread(self._prepare, flow) for flow in due))
        ready = [flow for flow in flows if flow in self._prepared]
        wanted = self._configuration(ready) if ready else None
        if wanted != maker.configuration or any(watch.needs_restart for watch in self._watches.values()):
            await self._restart(maker, wanted, ready)
        maker.rotate_log()
        watches, began_s = list(self._watches.items()), time.monotonic()
        looks = await asyncio.gather(*(asyncio.to_thread(watch.look, self._stall_s(flow)) for flow, watch in watches))
        await self._losses.settle(zip((flow for flow, _ in watches), looks, strict=True), began_s)

    def close(self) -> None:
        """Close the connections of all links."""
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()

    def _read(self) -> None:
        """Read the file again; one that is invalid now is reported once, and changes nothing."""
        try:
            topology = read_topology(self._file)
            topology.only_target(self._target, where=str(self._file))
        except HeadraceError as error:
            if str(error) != self._complaint:
                get_log().error(Action.REFUSED, code=error.code, why=error.what, where=error.where)
            self._complaint = str(error)
            return
        self._complaint = ""
        if topology != self.topology:
            get_log().info(Action.READY, file=str(self._file), why="the file has changed")
            self._prepared.clear()
        self.topology = topology

    def _open_flows(self) -> list[Flow]:
        now = datetime.now(UTC)
        return [flow for flow in self.topology.flows_to(self._target) if flow.is_open(now)]

    def _prepare(self, flow: Flow) -> None:
        """Make the mirrored topics of a flow; a source that does not answer is waited for, unless they are there."""
        sites = self.topology.sites
        near = self._settings_of(flow.target)
        target = reach_kafka(near)
        try:
            far = self._settings_of(flow.source)
            partitions = partition_counts(far, reach_kafka(far), [topic.name for topic in flow.topics])
        except HeadraceError as error:
            if flow not in self._prepared and self._all_there(near, target, flow):
                self._prepared[flow] = time.monotonic()
            elif flow not in self._prepared:
                get_log().warning(Action.WAITING, link=flow.name, why=error.what)
            return
        topics = mirrored_topics(flow, sites[flow.target], partitions)
        created = ensure_mirrored(near, target, topics)
        if created:
            get_log().info(Action.TOPICS_CREATED, topics=created)
        if partitions:
            self._prepared[flow] = time.monotonic()

    def _all_there(self, near: Settings, target: AdminClient, flow: Flow) -> bool:
        names = [flow.mirrored(topic.name) for topic in flow.topics]
        return len(partition_counts(near, target, names)) == len(names)

    def _settings_of(self, site: str) -> Settings:
        return settings_of(self._settings, self.topology.sites[site], site)

    def _configuration(self, flows: Sequence[Flow]) -> Configuration:
        sites = self.topology.sites
        environment = {
            variable: jaas(mechanism, login.username, secret_of(login.password, whose=login.username))
            for variable, (mechanism, login) in logins(sites, flows, self._target).items()
        }
        return Configuration(self._target, properties(sites, flows, self._target), environment)

    async def _restart(self, maker: MirrorMaker, wanted: Configuration | None, flows: Sequence[Flow]) -> None:
        await maker.stop()
        for watch in self._watches.values():
            if watch.needs_restart:
                await asyncio.to_thread(watch.start_anew)
        await asyncio.to_thread(self.close)
        near = self._settings_of(self._target)
        for flow in flows:
            watch = LinkWatch(flow, self._settings_of(flow.source), near)
            self._watches[flow] = watch
            await asyncio.to_thread(watch.begin)
        if wanted is not None:
            await maker.start(wanted)
            get_log().info(Action.STARTED, pid=maker.pid, links=[flow.name for flow in flows])

    def _stall_s(self, flow: Flow) -> float:
        """Return how long a link may copy nothing: the largest message takes its time where there is a rate."""
        return max(self._settings.watchdog_s, 2.0 * largest_message_s(flow))


def _progress(line: str) -> None:
    get_log().info(Action.WAITING, why=line)
