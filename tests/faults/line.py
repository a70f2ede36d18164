"""A small Headrace of a test's own on shared servers: its own tables and objects, its own part of the topics."""

import asyncio
import secrets
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import TopicPartition

from headrace.runtime.settings import Settings
from headrace.store.installation import mark_kafka
from headrace.streams.worker.profile import LARGE, SMALL
from tests.consumer_groups import commit, skip_backlog
from tests.faults.acks import Acks
from tests.faults.catalog import FaultsCatalog
from tests.faults.checker import GRACE_S, CheckResult, check
from tests.faults.gather import INPUTS, gather, lag
from tests.faults.listener import OUTPUTS, Listener, Offsets, offsets
from tests.faults.observed import Observed, WatchFindings
from tests.faults.plan import Mix, Planned, planned
from tests.faults.watch import Watch
from tests.faults.workload import publish_all
from tests.processes import ServiceProcess
from tests.servers import fresh_database, identity_of, mark_own, own_store
from tests.waiting import until

MIX = Mix(poison=0.08, wrong_digests=0.05, bytes_max=50_000)
MESSAGES = 60
SETTLES_S_MAX = 90.0
RATE_HZ = 200.0
NUMBERS_APART = 10_000
SESSION_S = 6.0  # the least that a broker allows: so long a worker that was killed is missed
SERVICES = {
    "worker-events": ("worker", "--kinds", "cids,ldos"),
    "worker-media": ("worker", "--kinds", "frames,clips"),
    "relay": ("relay",),
}


@dataclass(slots=True)
class Line:
    """The service, what was published through it, and who listens."""

    settings: Settings
    since: Offsets
    directory: Path
    listener: Listener
    catalog: FaultsCatalog
    seed: int = field(default_factory=lambda: secrets.randbelow(1_000_000_000))
    services: dict[str, ServiceProcess] = field(default_factory=dict)
    acks: list[Acks] = field(default_factory=list)
    findings: WatchFindings = field(default_factory=lambda: WatchFindings(samples=1))
    environment: dict[str, str] = field(default_factory=dict)
    """Variables of the processes that are started from now on."""
    programs: dict[str, tuple[str, ...]] = field(default_factory=lambda: dict(SERVICES))
    """The processes by name, with their arguments."""
    resources: ExitStack = field(default_factory=ExitStack)
    """What is closed with the line."""

    def start(self, *names: str) -> None:
        """Start processes of the service, all of them or those named, and wait until they serve."""
        for name in names or self.programs:
            self.services[name] = ServiceProcess(
                self.settings,
                *self.programs[name],
                log=self.directory / f"{name}.log",
                environment=self.environment,
                dead_letter_quota=1_000_000,
            )
        for name in names or self.programs:
            self.services[name].wait_ready()

    def stop(self, *names: str) -> None:
        """Let processes end in their own time."""
        for name in names or tuple(self.services):
            self.services.pop(name).stop()

    def kill(self, *names: str) -> None:
        """End processes with SIGKILL, or whatever still runs; they may be started again."""
        for name in names or tuple(self.services):
            self.services.pop(name).kill()

    def restart(self, name: str) -> None:
        """End a process with SIGKILL and start it again, as its supervisor would."""
        self.kill(name)
        self.start(name)

    def copied_catalog(self) -> Settings:
        """Return settings with a copy of the catalog as it is now; nothing of the service may run."""
        dsn = self.settings.postgres_dsn.get_secret_value()
        self.catalog.close()  # nobody may be connected to what is copied
        copied = self.resources.enter_context(fresh_database(self.settings, template=dsn.rsplit("/", 1)[1]))
        self.catalog = FaultsCatalog(dsn)
        return copied

    def exchange_catalog(self, settings: Settings) -> None:
        """Go on with another catalog, once nothing of the service runs."""
        assert not self.services
        self.catalog.close()
        self.settings = settings
        self.catalog = FaultsCatalog(settings.postgres_dsn.get_secret_value())

    def use_store(self, settings: Settings) -> None:
        """Go on with another part of the store, as a store of the same installation."""
        asyncio.run(mark_own(settings))
        self.settings = settings

    def well(self) -> bool:
        """Whether all of them run."""
        return self.services.keys() == self.programs.keys()

    def plan(self, mix: Mix = MIX) -> Iterator[Planned]:
        """Return messages that nobody has published before."""
        return planned(self.seed, first=len(self.acks) * NUMBERS_APART, mix=mix)

    def publish(self, messages: Iterable[Planned], count: int) -> Acks:
        """Publish messages, and return what was acknowledged."""
        path = self.directory / f"{len(self.acks)}.acks"
        self.acks.append(publish_all(self.settings, path, messages, count=count, rate_hz=RATE_HZ))
        return self.acks[-1]

    def settle(self, *, announced: bool = True) -> None:
        """Wait until everything is taken up, and announced."""
        begins, ends = offsets(self.settings, INPUTS)
        until(lambda: not lag(self.settings, begins, ends), SETTLES_S_MAX, "the workers")
        if announced:
            until(lambda: self.catalog.unpublished() == 0, SETTLES_S_MAX, "the relay")

    def observed(self) -> Observed:
        """Read every source."""
        self.listener.wait_quiet()
        return asyncio.run(gather(self.settings, self.acks, self.listener.heard(), self.findings, since=self.since))

    def verdict(self, grace_s: float = GRACE_S) -> CheckResult:
        """Check everything that was observed."""
        return check(self.observed(), grace_s=grace_s)

    def expect(self, *red: str) -> None:
        """Check everything, and that these invariants are broken and no other."""
        verdict = self.verdict()
        assert verdict.broken == set(red), f"seed {self.seed}: {verdict.examples}"

    def sql(self, text: str, *values: object) -> list[Any]:
        """Carry out a statement."""
        return self.catalog.fetch(text, *values)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch as long as this lasts."""
        pids = lambda: {name: service.process.pid for name, service in self.services.items()}  # noqa: E731
        watch = Watch(self.settings, pids, self.well)
        watch.start()
        try:
            yield
        finally:
            self.findings = watch.stop()


@contextmanager
def line_on(servers: Settings, directory: Path) -> Iterator[Line]:
    """Prepare a line; nothing runs yet."""
    with fresh_database(servers) as fresh:
        settings = own_store(fresh).model_copy(update={"kafka_session_s": SESSION_S})
        _, since = offsets(settings, (*INPUTS, *OUTPUTS))
        mark_kafka(settings, asyncio.run(identity_of(settings)).mark)  # a line before may have had a later epoch
        skip_backlog(settings, (SMALL.name, LARGE.name))
        catalog = FaultsCatalog(settings.postgres_dsn.get_secret_value())
        line = Line(settings, since, directory, Listener(settings, since), catalog)
        line.listener.start()
        try:
            yield line
        finally:
            line.kill()
            line.listener.stop()
            line.catalog.close()
            line.resources.close()


def finish(settings: Settings, group: str, upto: Offsets) -> None:
    """Commit offsets in the name of a group, as soon as nobody belongs to it."""
    places = [TopicPartition(at.topic, at.partition, offset) for at, offset in upto.items()]
    commit(settings, group, lambda _consumer: places)
