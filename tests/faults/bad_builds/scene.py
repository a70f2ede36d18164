"""One worker and one relay on real servers, told apart from whatever else is in the topics; builds can be exchanged."""

import asyncio
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from headrace.runtime.errors import Exit
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import canonical_body, record_id, sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Kind, Ldo, kind_of
from headrace.schemas.reject import RejectCode
from headrace.schemas.topics import input_topic
from headrace.streams.worker.profile import LARGE, SMALL, Group
from tests.consumer_groups import skip_backlog
from tests.faults.acks import AckFile, Attempt, Place, described, read_acks
from tests.faults.checker import CheckResult, check
from tests.faults.gather import INPUTS, gather
from tests.faults.listener import OUTPUTS, Listener, offsets
from tests.faults.observed import WatchFindings
from tests.processes import ServiceProcess, ends_with_this_process
from tests.servers import fresh_database
from tests.waiting import until

ROOT = Path(__file__).parents[3]
SESSION_S = 6.0  # the least that a broker allows: so long a worker that was killed is missed
COMES_S_MAX = 60.0
PARTITION = 0
STARTED_AGAIN = {Exit.UNREACHABLE, Exit.BROKEN, Exit.TRANSIENT}
KINDS = {SMALL.name: "cids,ldos", LARGE.name: "frames,clips"}


class Build(ServiceProcess):
    """A process of the service as it is, or as a bad build."""

    def __init__(self, settings: Settings, build: str | None, *args: str, log: Path, **changes: Any) -> None:
        self._module = ("headrace",) if build is None else ("tests.faults.bad_builds", build)
        super().__init__(settings, *args, log=log, **changes)

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as out:
            return subprocess.Popen(
                ends_with_this_process([sys.executable, "-m", *self._module, *self._args]),
                env=self._env | {"PYTHONPATH": str(ROOT)},
                stdout=out,
                stderr=out,
                cwd=tempfile.gettempdir(),
                start_new_session=True,
            )

    def revive(self) -> None:
        """Start it again where it ended by itself and says that it is to be, as a supervisor would."""
        if self.process.poll() in STARTED_AGAIN:
            self.process = self._start()

    def is_alive(self) -> bool:
        self.revive()
        return super().is_alive()


class BadBuildScene:
    """What a scenario acts on. Every message goes to one partition of its topic, in the order of the calls."""

    def __init__(self, settings: Settings, directory: Path, running: ExitStack) -> None:
        self.settings = settings
        self._directory = directory
        self._running = running
        self._numbers = iter(range(10**6))
        self._tag = uuid.uuid4().hex[:8]
        self._workers: list[Build] = []
        self._acks = running.enter_context(AckFile(directory / "acks"))
        self._producer = Producer(client_config(settings, acks="all", message_max_bytes=16_000_000) | {"log_level": 0})
        self._dsn = settings.postgres_dsn.get_secret_value()
        self._sql = running.enter_context(psycopg.connect(self._dsn, autocommit=True))
        self._consumers = {group.name: _asking(settings, group, running) for group in (SMALL, LARGE)}
        skip_backlog(settings, (SMALL.name, LARGE.name))
        _, self._since = offsets(settings, [*INPUTS, *OUTPUTS])
        self._listener = Listener(settings, self._since)
        self._listener.start()
        running.callback(self._listener.stop)

    def source(self) -> str:
        """A source that nobody else uses."""
        return f"{self._tag}-{next(self._numbers)}"

    def worker(self, group: Group, build: str | None = None, **changes: object) -> Build:
        """Start a worker; whatever is still running at the end is stopped."""
        return self._started(build, "worker", "--kinds", KINDS[group.name], **changes)

    def stop_workers(self) -> None:
        """Stop those that run, and relays, so that the next one gets every partition."""
        while self._workers:
            self._workers.pop().stop()

    def relay(self, build: str | None = None, **changes: object) -> Build:
        """Start a relay; it is stopped as the workers are."""
        return self._started(build, "relay", **changes)

    def publish(self, event: InputEvent) -> Place:
        """Publish an event that has to become a record."""
        body = canonical_body(event) if isinstance(event, Cid | Ldo) else event.body
        assert body is not None
        digest, kind = sha256_hex(body), kind_of(event)
        made = Attempt(
            next(self._numbers),
            kind,
            input_topic(kind).name,
            event.source_id,
            event.sequence,
            digest,
            len(body),
            record_id(kind, digest),
            None,
            described(event),
        )
        return self._publish(made, event.source_id.encode(), encode(event))

    def publish_poison(self, kind: Kind, value: bytes) -> Place:
        """Publish what has to become a dead letter."""
        source = self.source()
        made = Attempt(
            next(self._numbers),
            kind,
            input_topic(kind).name,
            source,
            0,
            sha256_hex(value),
            len(value),
            None,
            RejectCode.NOT_FRAMED,
        )
        return self._publish(made, source.encode(), value)

    def committed(self, group: Group, place: Place) -> int:
        """The group's offset in the partition of a message: Kafka does not deliver again what is below it."""
        (committed,) = self._consumers[group.name].committed([TopicPartition(place.topic, place.partition)], timeout=10)
        return int(committed.offset)

    def passed(self, group: Group, place: Place, seconds: float = COMES_S_MAX) -> bool:
        """Whether the group's offset gets past a message in so many seconds."""
        deadline = time.monotonic() + seconds
        while self.committed(group, place) <= place.offset:
            if time.monotonic() > deadline:
                return False
            for worker in self._workers:
                worker.revive()
            time.sleep(0.2)
        return True

    @contextmanager
    def held(self, *events: Frame | Clip) -> Iterator[None]:
        """Keep the rows of these bodies from being written, as a transaction that has them first would."""
        with psycopg.connect(self._dsn) as connection:
            for event in events:
                connection.execute(
                    "insert into blobs (sha256, size_bytes, media_type, store_key) values (%s, 1, 'a/b', %s)",
                    (bytes.fromhex(event.sha256), f"held/{event.sha256}"),
                )
            try:
                yield
            finally:
                connection.rollback()

    def count(self, table: str) -> int:
        """How many rows a table has."""
        row = self._sql.execute(f"select count(*) from {table}").fetchone()
        assert row is not None
        return int(row[0])

    def waiting_for_lock(self) -> bool:
        """Whether a worker's statement waits for somebody else's transaction."""
        row = self._sql.execute(
            "select count(*) from pg_stat_activity where datname = current_database()"
            " and application_name = 'headrace-worker' and wait_event_type = 'Lock'"
        ).fetchone()
        return row is not None and row[0] > 0

    def rest(self, groups: tuple[Group, ...]) -> None:
        """Wait until the groups have finished everything and all of it is announced."""
        for group in groups:
            for place in self._last_places():
                if Kind(_kind_of(place.topic)) in group.kinds:
                    assert self.passed(group, place), f"{place} was never finished"
        until(self._nothing_unpublished, COMES_S_MAX, "the outbox to be empty")

    def verdict(self, groups: tuple[Group, ...]) -> CheckResult:
        """Let the checker judge once everything is at rest."""
        self.rest(groups)
        self._acks.sync()
        self._listener.wait_quiet()
        acks = read_acks(self._directory / "acks")
        watch = WatchFindings()
        observed = asyncio.run(gather(self.settings, [acks], self._listener.heard(), watch, since=self._since))
        return check(observed)

    def _started(self, build: str | None, *args: str, **changes: object) -> Build:
        log = self._directory / f"{args[0]}-{next(self._numbers)}.log"
        started = Build(self.settings, build, *args, log=log, **changes)
        self._running.callback(started.stop)
        self._workers.append(started)
        return started

    def _publish(self, attempt: Attempt, key: bytes, value: bytes) -> Place:
        delivered: list[Message] = []
        self._acks.attempt(attempt)
        self._producer.produce(
            attempt.topic,
            value,
            key,
            partition=PARTITION,
            on_delivery=lambda _error, message: delivered.append(message),
        )
        assert self._producer.flush(30) == 0
        (message,) = delivered
        assert message.error() is None, message.error()
        place = Place(attempt.topic, PARTITION, message.offset() or 0)
        self._acks.ack(attempt.number, place)
        return place

    def _last_places(self) -> list[Place]:
        last: dict[str, Place] = {}
        for ack in read_acks(self._directory / "acks").acks:
            last[ack.place.topic] = max(ack.place, last.get(ack.place.topic, ack.place))
        return list(last.values())

    def _nothing_unpublished(self) -> bool:
        return self.count("outbox where published_at is null") == 0


@contextmanager
def scene(stack_settings: Settings, directory: Path) -> Iterator[BadBuildScene]:
    """Open a scene with a database of its own; at the end its processes are stopped."""
    quick = stack_settings.model_copy(update={"kafka_session_s": SESSION_S})
    with fresh_database(quick) as settings, ExitStack() as running:
        yield BadBuildScene(settings, directory, running)


def _kind_of(topic: str) -> Kind:
    return next(kind for kind in Kind if input_topic(kind).name == topic)


def _asking(settings: Settings, group: Group, running: ExitStack) -> Consumer:
    """A consumer that only asks where the group is, and never joins it."""
    consumer = Consumer(client_config(settings, group_id=group.name, enable_auto_commit=False) | {"log_level": 0})
    running.callback(consumer.close)
    return consumer


def metric(process: ServiceProcess, name: str) -> float:
    """The sum of a metric over its labels, as the process tells it."""
    lines = process.get("/metrics")[1].splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def frame_of(source: str, sequence: int, size_bytes: int) -> Frame:
    """A frame of that size, which no other scene has: its source is in it."""
    from tests.faults.bodies import HEIGHT, IMAGES, WIDTH, image

    body = image(IMAGES[0], f"{source}/{sequence}".encode(), size_bytes)
    return Frame(
        source_id=source,
        site="plant",
        captured_at_us=time.time_ns() // 1000,
        sequence=sequence,
        sha256=sha256_hex(body),
        media_type=IMAGES[0].media_type,
        width=WIDTH,
        height=HEIGHT,
        size_bytes=len(body),
        body=body,
        claim=None,
    )


def cid_of(source: str, sequence: int) -> Cid:
    """A scan that no other scene has."""
    return Cid(
        source_id=source,
        site="plant",
        captured_at_us=time.time_ns() // 1000,
        sequence=sequence,
        code=f"{source}/{sequence}",
    )
