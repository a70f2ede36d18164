"""A worker compares catalog, group and topic before it ingests: an older catalog ends it, deleted input is lost."""

import signal
import time
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from headrace.runtime.errors import Exit
from headrace.runtime.kafka import client_config, ensure_topics
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from headrace.streams.worker.profile import SMALL
from tests.commands import headrace
from tests.consumer_groups import skip_backlog
from tests.processes import ServiceProcess
from tests.servers import fresh_database
from tests.streams.streams_samples import cid
from tests.streams.streams_world import Sent, World
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.slow]

TOPIC = input_topic(Kind.CID).name
LOST_METRIC = f'headrace_worker_lost_messages_total{{topic="{TOPIC}"}}'
FETCH_ENDS_S = 3.0  # a fetch that is under way would bring the next message to a process that is stopped
ENDS_S_MAX = 60.0


def worker(settings: Settings, log: Path) -> ServiceProcess:
    return ServiceProcess(settings, "worker", "--kinds", "cids,ldos", log=log, kafka_session_s=6.0)


def send(settings: Settings, *names: str) -> list[Sent]:
    with closing(World(settings)) as world:
        return [world.send(cid(f"{world.tag}-{name}")) for name in names]


def ingest(settings: Settings, log: Path, *names: str) -> list[Sent]:
    """Send scans, and run a worker until they are in the catalog and acknowledged."""
    sent = send(settings, *names)
    running = worker(settings, log)
    try:
        with closing(World(settings)) as world:
            for scan in sent:
                world.stored(scan)
    finally:
        assert running.stop() == 0
    return sent


def delete_up_to(settings: Settings, sent: Sent) -> None:
    """Delete a message and those before it, as retention would."""
    admin = AdminClient(client_config(settings))
    after = TopicPartition(sent.topic, sent.partition, sent.offset + 1)
    (deleted,) = admin.delete_records([after]).values()
    assert deleted.result(30).low_watermark == sent.offset + 1


def database(settings: Settings) -> str:
    return settings.postgres_dsn.get_secret_value().rsplit("/", 1)[1]


def test_a_worker_notices_deleted_input_and_an_older_catalog(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    skip_backlog(settings, {SMALL.name})
    (kept,) = ingest(settings, log, "kept")
    headrace(settings, "lost")
    with fresh_database(settings, template=database(settings)) as older:
        gone = send(settings, "gone-1", "gone-2", "gone-3")
        delete_up_to(settings, gone[-1])
        running = worker(settings, log).wait_ready()
        try:
            noticed_at_start(settings, running, gone)
            noticed_while_reading(settings, running)
        finally:
            assert running.stop() == 0
        refused_by_name(older, log, kept)


def test_a_worker_notices_what_is_deleted_before_the_first_message_of_a_partition(
    settings: Settings, tmp_path: Path
) -> None:
    make_anew(settings, TOPIC)  # a topic of which nothing was ever read or committed
    running = worker(settings, tmp_path / "worker.log").wait_ready()
    try:
        gone = overtaken(settings, running)
        assert lost(settings) == [(gone[0].partition, gone[0].offset, gone[-1].offset)]
    finally:
        assert running.stop() == 0


def test_a_topic_made_anew_under_a_running_worker_is_read_from_its_start(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    skip_backlog(settings, {SMALL.name})
    running = worker(settings, log).wait_ready()
    try:
        with closing(World(settings)) as world:
            old = [world.send(cid(f"{world.tag}-old-{number}")) for number in range(3)]
            for scan in old:
                world.stored(scan)
            until(lambda: world.committed(old[-1]) > old[-1].offset, ENDS_S_MAX, "the group to pass them")
        running.process.send_signal(signal.SIGSTOP)
        make_anew(settings, TOPIC)
        # More than the old topic had: the worker's offset is one of the new topic.
        with closing(World(settings)) as world:
            scans = [encode(cid(f"{world.tag}-new-{number}")) for number in range(old[-1].offset + 4)]
            new = world.send_all(Kind.CID, scans, partition=old[-1].partition)
            running.process.send_signal(signal.SIGCONT)
            assert running.process.wait(ENDS_S_MAX) == Exit.TRANSIENT
            assert f"the topic {TOPIC} was deleted and made anew while it was read" in log.read_text()
            running.restart()
            for scan in new:
                world.stored(scan)
    finally:
        running.kill()


def make_anew(settings: Settings, topic: str) -> None:
    admin = AdminClient(client_config(settings))
    (deleted,) = admin.delete_topics([topic], request_timeout=30).values()
    deleted.result(30)
    until(lambda: topic not in admin.list_topics(timeout=10).topics, ENDS_S_MAX, "the topic to be gone")
    until(lambda: topic in ensure_topics(settings, admin), ENDS_S_MAX, "the topic to be there again")


def noticed_at_start(settings: Settings, running: ServiceProcess, gone: list[Sent]) -> None:
    assert lost(settings) == [(gone[0].partition, gone[0].offset, gone[-1].offset)], "a source has one partition"
    assert f"{LOST_METRIC} 3.0" in running.get("/metrics")[1]
    with closing(World(settings)) as world:
        world.stored(world.send(cid(f"{world.tag}-after")))


def noticed_while_reading(settings: Settings, running: ServiceProcess) -> None:
    before = lost(settings)
    gone = overtaken(settings, running)
    assert set(lost(settings)) - set(before) == {(gone[0].partition, gone[0].offset, gone[-1].offset)}


def overtaken(settings: Settings, running: ServiceProcess) -> list[Sent]:
    """Delete messages that a worker has not read yet, and wait until it has read the one after them."""
    running.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(FETCH_ENDS_S)
        gone = send(settings, "overtaken-1", "overtaken-2")
        delete_up_to(settings, gone[-1])
    finally:
        running.process.send_signal(signal.SIGCONT)
    with closing(World(settings)) as world:
        world.stored(world.send(cid(f"{world.tag}-next")))
    return gone


def refused_by_name(older: Settings, log: Path, kept: Sent) -> None:
    """A worker with the catalog as it was after the first message must not go on."""
    refused = worker(older, log)
    try:
        assert refused.process.wait(ENDS_S_MAX) == Exit.REVERTED
    finally:
        refused.kill()
    said = log.read_text()
    assert f"it has {TOPIC} [{kept.partition}] to offset {kept.offset + 1}, and the group committed" in said
    assert "headrace recover" in said
    with closing(World(older)) as world:
        assert len(world.rows("select from records")) == 1


def lost(settings: Settings) -> list[tuple[int, int, int]]:
    listed = headrace(settings, "lost", "--json", code=Exit.FAILED)
    return sorted((row["partition"], row["first_offset"], row["last_offset"]) for row in listed.json["lost"])
