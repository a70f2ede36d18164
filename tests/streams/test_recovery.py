"""An older copy of the catalog starts nothing; after `headrace recover` everything is ingested and announced once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import Consumer

from headrace.runtime.crash_points import CrashPoint
from headrace.runtime.errors import Exit
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, headers_of, offset_bounds, partitions_of, reading_consumer
from headrace.schemas.digest import event_id
from headrace.schemas.events import Kind
from headrace.schemas.topics import DEAD_LETTERS, ingested_topic, input_topic
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.orphan_gc import OrphanGc
from headrace.store.catalog.recovery import CollectionState
from headrace.store.errors import CatalogRevertedError
from headrace.store.installation import kafka_identity, mark_kafka, require_installation
from headrace.streams import recovery
from headrace.streams.relay.announcement import published_event
from headrace.streams.worker.profile import SMALL
from tests.commands import run_in_process
from tests.consumer_groups import EMPTY_S_MAX, skip_backlog
from tests.processes import ServiceProcess
from tests.servers import fresh_database, identity_of, own_store
from tests.standby import Standby
from tests.streams.streams_samples import cid
from tests.streams.streams_world import World
from tests.waiting import until

pytestmark = pytest.mark.stack

ENDS_S_MAX = 60.0
ARRIVES_S_MAX = 120.0
OUTPUTS = (ingested_topic(Kind.CID).name, DEAD_LETTERS.name)
STEPS = [point for point in CrashPoint if point.name.startswith("RECOVER_")]


@dataclass
class Site:
    """An installation with a catalog that may be exchanged for an older one."""

    settings: Settings
    logs: Path
    since: dict[tuple[str, int], int]

    @property
    def dsn(self) -> str:
        return self.settings.postgres_dsn.get_secret_value()

    def process(self, *args: str) -> ServiceProcess:
        return ServiceProcess(self.settings, *args, log=self.logs / f"{uuid4().hex}.log", kafka_session_s=6.0)

    def worker(self) -> ServiceProcess:
        return self.process("worker", "--kinds", "cids,ldos")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run a worker and a relay, and stop them in order."""
        processes = [self.worker(), self.process("relay")]
        try:
            yield
        finally:
            assert [process.stop() for process in processes] == [0, 0]

    def ingest(self, *names: str, junk: bool = False) -> None:
        """Ingest and announce scans, and with `junk` a message that is none."""
        before = self.count("outbox")
        with closing(World(self.settings)) as world, self.running():
            for name in names:
                world.send(cid(f"{world.tag}-{name}"))
            if junk:
                world.send_all(Kind.CID, [uuid4().bytes])
            self.wait_announced(before + len(names) + junk)

    def wait_announced(self, count: int) -> None:
        until(
            lambda: (self.count("outbox"), self.count("outbox where published_at is null")) == (count, 0),
            ARRIVES_S_MAX,
            f"{count} announcements",
        )

    def count(self, what: str) -> int:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            (row,) = connection.execute(f"select count(*) from {what}").fetchall()  # type: ignore[call-overload]
        return int(row[0])

    def announced(self) -> Counter[str]:
        """How often each announcement is on its topic."""
        with reading_consumer(self.settings, "test") as consumer:
            keys = [key for topic in OUTPUTS for key in partitions_of(consumer, topic)]
            ranges = {key: (self.since[key], end) for key, (_, end) in offset_bounds(consumer, keys).items()}
            events = [published_event(headers_of(message) or []) for message in TopicReader(consumer, ranges)]
            return Counter(str(event.event_id) for event in events if event is not None)

    def known(self) -> set[str]:
        """The announcements that the records and dead letters of the catalog should have."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            rows = connection.execute("select record_id from records union all select dead_letter_id from dead_letters")
            return {str(event_id(row[0])) for row in rows}

    def refuses(self, *args: str) -> str:
        """Start a process that must not start; returns what it says."""
        process = self.process(*args)
        try:
            assert process.process.wait(ENDS_S_MAX) == Exit.REVERTED, process.log.read_text()
        finally:
            process.kill()
        return process.log.read_text()


@pytest.fixture
def site(settings: Settings, tmp_path: Path) -> Iterator[Site]:
    own = own_store(settings)
    identity = asyncio.run(identity_of(own))
    skip_backlog(own, {SMALL.name})
    with reading_consumer(own, "test") as consumer:
        keys = [key for topic in OUTPUTS for key in partitions_of(consumer, topic)]
        since = {key: end for key, (_, end) in offset_bounds(consumer, keys).items()}
    yield Site(own, tmp_path, since)
    mark_kafka(own, identity.mark)  # other tests have a catalog of the first epoch


@contextmanager
def exchanged(site: Site) -> Iterator[Site]:
    """The same installation with the catalog as it is now, for later."""
    with fresh_database(site.settings, template=site.dsn.rsplit("/", 1)[1]) as older:
        yield Site(older, site.logs, site.since)


@pytest.mark.faults
def test_everything_is_ingested_and_announced_once_with_an_older_catalog(site: Site) -> None:
    site.ingest("kept-1", "kept-2")
    with exchanged(site) as older:
        site.ingest("missing-1", "missing-2", "missing-3", junk=True)
        assert "committed" in older.refuses("worker", "--kinds", "cids,ldos")
        refusal = older.refuses("relay")  # by whichever topic was read first
        scans, letters = ingested_topic(Kind.CID).name, DEAD_LETTERS.name
        assert any(
            f"it does not know {n} of the announcements on {topic}" in refusal
            for n, topic in ((3, scans), (1, letters))
        )
        planned = run_in_process(older.settings, "recover", "--dry-run", "--json").json
        assert (planned["announced"], planned["epoch"]) == (4, None)
        # Other tests have left offsets of other groups, of catalogs that are gone.
        assert input_topic(Kind.CID).name in {row["topic"] for row in planned["rewinds"]}
        refused_while_a_worker_runs(older)
        repeated_after_each_kill(older)
        recovered(older)
        assert run_in_process(older.settings, "recover", "--json").json["reasons"] == []


@pytest.mark.slow
def test_everything_is_ingested_and_announced_once_after_a_failover_to_a_lagging_standby(site: Site) -> None:
    site.ingest("kept")
    with Standby.of(site.settings) as standby:
        standby.start()
        site.ingest("replicated")
        lagging = Site(standby.settings, site.logs, site.since)
        until(lambda: lagging.count("outbox where published_at is not null") == 2, ARRIVES_S_MAX, "replication")
        standby.stop()
        site.ingest("missing-1", "missing-2", junk=True)
        standby.start("-c", "primary_conninfo=")
        standby.promote()
        assert lagging.count("records") == 2
        for process in (("worker", "--kinds", "cids,ldos"), ("relay",)):
            assert "promoted since" in lagging.refuses(*process)
        ended = run_in_process(lagging.settings, "recover", "--json")
        assert ended.code == Exit.OK, ended.err
        assert ended.json["announced"] == 3
        with lagging.running():
            until(lambda: (lagging.count("records"), lagging.count("dead_letters")) == (4, 1), ARRIVES_S_MAX, "it all")
            lagging.wait_announced(5)
        assert lagging.announced() == dict.fromkeys(lagging.known(), 1)
        assert len(lagging.known()) == 5


def refused_while_a_worker_runs(older: Site) -> None:
    consumer = Consumer(client_config(older.settings, group_id=SMALL.name, enable_auto_commit=False))
    try:
        consumer.subscribe([input_topic(Kind.LDO).name])
        until(lambda: consumer.poll(0.1) or consumer.assignment(), ENDS_S_MAX, "an assignment")
        refused = run_in_process(older.settings, "recover")
        assert refused.code == Exit.FAILED
        assert "service_running" in refused.err
    finally:
        consumer.close()
    # The worker that found the older catalog ended at once, and is a member until its session ends.
    until(lambda: not recovery._members(older.settings), EMPTY_S_MAX, "the group to have no members")


def repeated_after_each_kill(older: Site) -> None:
    """However far a recovery came, nothing starts before another one has ended."""

    class KilledError(Exception):
        pass

    async def ended_at(point: CrashPoint) -> None:
        def end(reached: CrashPoint) -> None:
            if reached is point:
                raise KilledError

        blobs = Blobs.from_settings(older.settings)
        async with recovery.alone(older.settings):
            with pytest.raises(KilledError):
                await recovery.recover(older.settings, blobs, await recovery.plan(older.settings, blobs), reached=end)
        with pytest.raises(CatalogRevertedError, match="interrupted"):
            await require_installation(older.settings, blobs)

    for point in STEPS:
        asyncio.run(ended_at(point))


def recovered(older: Site) -> None:
    ended = run_in_process(older.settings, "recover", "--json")
    assert ended.code == Exit.OK, ended.err
    kafka = kafka_identity(older.settings).mark
    assert kafka is not None
    assert kafka.epoch == ended.json["epoch"]
    suspended = asyncio.run(collection(older))
    assert suspended.why_suspended is not None
    assert "still being ingested again" in suspended.why_suspended
    with older.running():
        until(lambda: (older.count("records"), older.count("dead_letters")) == (5, 1), ARRIVES_S_MAX, "the records")
        older.wait_announced(6)
    assert older.announced() == dict.fromkeys(older.known(), 1)
    assert len(older.known()) == 6
    assert asyncio.run(collection(older)) == CollectionState(None, quarantined=True)


async def collection(site: Site) -> CollectionState:
    async with OrphanGc.open(site.dsn) as orphans:
        return await orphans.state()
