"""One whole Headrace to do harm to: servers, proxies in front of two of them, and the service under its supervisor."""

import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.initialize import initialize
from headrace.native import Brokers, StackInfo, status, temporary_stack
from headrace.native.state_file import ProcessState
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.topics import input_topic
from headrace.streams.worker.lag import PartitionOffsets
from headrace.streams.worker.profile import LARGE, SMALL
from tests.faults import small_disk, toxiproxy
from tests.faults.catalog import FaultsCatalog
from tests.faults.fleet import Fleet, Member
from tests.faults.growth import Growth
from tests.faults.toxiproxy import Toxiproxy
from tests.processes import environment_of, free_port
from tests.servers import settings_of

SESSION_S = 6.0
"""How soon Kafka gives up a member that fell silent; the broker allows no less, and 30 s would make hours of a run."""
READY_S_MAX = 150.0
SETTLE_S_MAX = 120.0
"""I8: so long after healing nothing may wait any more."""
PASSED_S = 3.0
"""How long everything must have been well before a standstill counts as one."""
_POLL_S = 0.25
_QUIET_LOOKS = 3
_REQUEST_S = 5.0

EVENTS = ("worker", "--kinds", "cids,ldos")
MEDIA = ("worker", "--kinds", "frames,clips")
RELAY = ("relay",)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a world consists of. Spare workers are parked. `small_disk` names parts on a disk of their own."""

    brokers: Brokers = 1
    spare_workers: int = 3
    small_disk: frozenset[str] = frozenset()
    small_disk_mib: int = 0

    @property
    def members(self) -> tuple[Member, ...]:
        """The processes: two workers of each group, spares, and two relays of which the second waits."""
        workers = [
            Member(f"worker-{group}-{number}", args, parked=number > 2)
            for number in range(1, 3 + self.spare_workers)
            for group, args in (("events", EVENTS), ("media", MEDIA))
        ]
        return (*workers, Member("relay-1", RELAY), Member("relay-2", RELAY))


@dataclass(slots=True)
class FaultsWorld:
    """A running Headrace; `settings` go straight to its servers, `service_settings` through the proxies."""

    shape: Shape
    stack: StackInfo
    settings: Settings
    service_settings: Settings
    proxies: Toxiproxy
    fleet: Fleet
    directory: Path
    catalog: FaultsCatalog
    disks: "small_disk.SmallDisks | None" = None
    faults: Counter[str] = field(default_factory=Counter)
    growth: Growth = field(default_factory=Growth)
    """What was seen of the processes, through all experiments: a single one is too short to tell."""
    _open: int = 0
    _well_since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def fault(self, kind: str) -> Iterator[None]:
        """Let nobody expect progress while a fault lasts, and count it once it has happened."""
        with self.quiet():
            yield
            with self._lock:
                self.faults[kind] += 1

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Let nobody expect progress, and count nothing: for what an experiment does beside its faults."""
        with self._lock:
            self._open += 1
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                self._well_since = 0.0

    def leader(self) -> str | None:
        """Return the name of the relay that leads; None where none says so."""
        for name in self.fleet.active():
            if name.startswith("relay-") and self.fleet.leads(name):
                return name
        return None

    def kill(self, name: str) -> bool:
        """Kill a process of the service; False where it does not run just then."""
        hit = self.fleet.signal(name, signal.SIGKILL)
        if hit:
            with self.fault(f"SIGKILL {name.rsplit('-', 1)[0]}"):
                pass
        return hit

    def server(self, name: str) -> psutil.Process | None:
        """Return the process of a server of the stack, while it runs."""
        matching = [process for process in status(self.stack.state_dir).processes if process.name == name]
        if not matching or matching[0].pid is None:
            return None
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(matching[0].pid)
        return None

    def servers_ready(self) -> bool:
        """Whether every server serves, as its supervisor knows."""
        return all(
            process.state in {ProcessState.READY, ProcessState.DONE}
            for process in status(self.stack.state_dir).processes
        )

    def wait_servers(self, seconds: float = READY_S_MAX) -> None:
        """Wait until every server serves again."""
        deadline = time.monotonic() + seconds
        while not self.servers_ready():
            if time.monotonic() > deadline:
                states = {
                    process.name: f"{process.state} {process.last_exit}"
                    for process in status(self.stack.state_dir).processes
                }
                raise TimeoutError(f"not every server came back in {seconds:.0f} s: {states}")
            time.sleep(_POLL_S)

    def well(self) -> bool:
        """Whether no fault is open and every process has served for a while, so that work must be moving."""
        now = time.monotonic()
        with self._lock:
            if self._open or not (self.servers_ready() and self.fleet.all_ready()):
                self._well_since = 0.0
                return False
            self._well_since = self._well_since or now
            return now - self._well_since > PASSED_S

    def settle(self, seconds: float = SETTLE_S_MAX) -> bool:
        """Wait until nothing waits in the topics or in the outbox; False where something still does."""
        deadline, quiet = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            with suppress(KafkaException, OSError):
                quiet = quiet + 1 if self.lag() == 0 and self.catalog.unpublished() == 0 else 0
                if quiet >= _QUIET_LOOKS:
                    return True
            time.sleep(_POLL_S)
        return False

    def lag(self) -> int:
        """Return how many messages of the input topics are not committed yet; raises KafkaException."""
        total = 0
        for group in (SMALL, LARGE):
            consumer = Consumer(client_config(self.settings, group_id=group.name, enable_auto_commit=False))
            try:
                places = [
                    TopicPartition(input_topic(kind).name, number)
                    for kind in group.kinds
                    for number in range(self.settings.kafka_partitions)
                ]
                for committed in consumer.committed(places, timeout=_REQUEST_S):
                    ends = consumer.get_watermark_offsets(committed, timeout=_REQUEST_S, cached=False)
                    if committed.error is not None or ends is None:
                        raise KafkaException(committed.error or KafkaError(KafkaError._TIMED_OUT))
                    total += PartitionOffsets.within(committed.offset, ends).lag
            finally:
                consumer.close()
        return total


@contextmanager
def open_world(shape: Shape) -> Iterator[FaultsWorld]:
    """Start a world, and leave nothing of it behind."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-faults-")))
        disks = None
        if shape.small_disk:
            state_dir = directory / "stack"
            disks = stack.enter_context(small_disk.prepare(state_dir, shape.small_disk, shape.small_disk_mib))
            info = stack.enter_context(temporary_stack("minio", shape.brokers, state_dir=state_dir))
        else:
            info = stack.enter_context(temporary_stack("minio", shape.brokers))
        settings = settings_of(info, kafka_session_s=SESSION_S)
        initialize(settings)
        proxies = stack.enter_context(toxiproxy.opened())
        service_settings = _through(proxies, settings)
        fleet = Fleet(directory / "fleet", environment_of(service_settings), shape.members)
        fleet.start()
        stack.callback(fleet.stop)
        fleet.wait_ready(READY_S_MAX)
        catalog = FaultsCatalog(settings.postgres_dsn.get_secret_value())
        stack.callback(catalog.close)
        yield FaultsWorld(shape, info, settings, service_settings, proxies, fleet, directory, catalog, disks)


def _through(proxies: Toxiproxy, settings: Settings) -> Settings:
    """Return the settings with proxies in front of PostgreSQL and of the store."""
    dsn, store = urlsplit(settings.postgres_dsn.get_secret_value()), urlsplit(settings.store_endpoint)
    ports = {"postgres": free_port(), "store": free_port()}
    for name, address in (("postgres", dsn), ("store", store)):
        if address.port is None:
            raise HeadraceError("setting_invalid", f"the address of {name} names no port")
        proxies.create(name, ports[name], f"127.0.0.1:{address.port}")
    moved = dsn._replace(netloc=dsn.netloc.replace(f":{dsn.port}", f":{ports['postgres']}"))
    return settings.model_copy(
        update={
            "postgres_dsn": type(settings.postgres_dsn)(moved.geturl()),
            "store_endpoint": f"http://127.0.0.1:{ports['store']}",
        }
    )
