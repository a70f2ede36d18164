"""Kafka's console tools as docs/replay.md writes them, against a real Kafka, a worker and its catalog."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from confluent_kafka import Producer, TopicPartition

from headrace.initialize import initialize
from headrace.native import StackInfo, temporary_stack
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import offset_bounds, partitions_of, reading_consumer
from headrace.schemas.codec import encode
from headrace.schemas.digest import event_id, record_id, sha256_hex
from headrace.schemas.events import Ingested, Kind
from headrace.schemas.topics import ingested_topic, input_topic
from headrace.streams.worker.profile import SMALL
from tests.batch.batch_samples import cid, frame
from tests.processes import ServiceProcess
from tests.servers import in_memory_directory, settings_of
from tests.waiting import until

ROOT = Path(__file__).parents[2]
TOPIC = input_topic(Kind.CID).name
COUNTED = ("records", "sightings", "blobs", "outbox", "dead_letters", "site_records", "sources", "source_losses")
COMMAND_S_MAX = 120
GROUPS = "headrace kafka consumer-groups --group"

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]


def commands() -> list[str]:
    text = (ROOT / "docs/replay.md").read_text("utf-8")
    blocks = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE))
    return [line.strip() for line in blocks.replace("\\\n", " ").splitlines() if line.strip()]


class Shell:
    """Runs the commands of a reader who has this stack."""

    def __init__(self, stack: StackInfo, folder: Path) -> None:
        self.folder = folder
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        self._env = clean | {"PATH": path, "HEADRACE_STATE_DIR": str(stack.state_dir), "COLUMNS": "200"}

    def run(self, command: str) -> str:
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self._env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_S_MAX,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout


@pytest.fixture(scope="module")
def own_stack() -> Iterator[StackInfo]:
    """Servers of their own: a rewind of the agents would bring what other tests published."""
    with temporary_stack("local", state_dir=in_memory_directory()) as info:
        initialize(settings_of(info))
        yield info


@pytest.fixture(scope="module")
def own_settings(own_stack: StackInfo) -> Settings:
    return settings_of(own_stack)


@pytest.fixture
def shell(own_stack: StackInfo, tmp_path: Path) -> Shell:
    return Shell(own_stack, tmp_path)


def publish(settings: Settings, count: int) -> None:
    producer = Producer(client_config(settings))
    for _ in range(count):
        event = cid(uuid4().hex)
        producer.produce(TOPIC, encode(event), event.source_id.encode(), headers=[("ce_id", b"1")])
    assert producer.flush(30) == 0


def announce(settings: Settings) -> None:
    """One announcement in each partition, so that whatever is read has something."""
    producer = Producer(client_config(settings))
    for partition in range(4):
        record = record_id(Kind.FRAME, sha256_hex(b"%d" % partition))
        event = Ingested(
            source_id="cam-1",
            site="factory-a",
            captured_at_us=1_790_000_000_000_000,
            sequence=partition,
            event_id=str(event_id(record)),
            record_id=str(record),
            kind="frame",
            digest=sha256_hex(b"%d" % partition),
            ingested_at_us=1_790_000_000_000_000,
            media_type="image/png",
            size_bytes=1,
            store_key="blobs/x",
        )
        producer.produce(ingested_topic(Kind.FRAME).name, encode(event), b"cam-1", partition=partition)
        producer.produce(input_topic(Kind.FRAME).name, encode(frame("x")), b"cam-1", partition=partition)
    assert producer.flush(30) == 0


def test_every_documented_command_works_as_it_stands(shell: Shell, own_settings: Settings) -> None:
    publish(own_settings, 3)
    announce(own_settings)
    listed = commands()
    assert len(listed) > 20
    for command in listed:
        shell.run(command)


def test_the_files_of_a_broker_are_shown(shell: Shell, own_stack: StackInfo, own_settings: Settings) -> None:
    publish(own_settings, 1)
    files = [path for path in own_stack.state_dir.rglob("*.log") if path.parent.name.startswith(TOPIC)]
    full = next(path for path in files if path.stat().st_size)
    assert "headerKeys" in shell.run(f"headrace kafka dump-log --files {full} --print-data-log")


def test_a_rewind_of_the_agents_adds_no_row(shell: Shell, own_stack: StackInfo, own_settings: Settings) -> None:
    with psycopg.connect(own_settings.postgres_dsn.get_secret_value(), autocommit=True) as sql:
        _rewind(shell, own_settings, sql)


def _rewind(shell: Shell, settings: Settings, sql: psycopg.Connection[Any]) -> None:
    def counts() -> dict[str, int]:
        rows = {table: sql.execute(f"select count(*) from {table}").fetchone() for table in COUNTED}
        return {table: row[0] for table, row in rows.items() if row is not None}

    def lag() -> int:
        with reading_consumer(settings, SMALL.name) as consumer:
            bounds = offset_bounds(consumer, partitions_of(consumer, TOPIC))
            committed = consumer.committed([TopicPartition(*key) for key in bounds], timeout=10)
        return sum(
            bounds[at.topic, at.partition][1] - max(at.offset, bounds[at.topic, at.partition][0]) for at in committed
        )

    def ingest() -> None:
        worker = ServiceProcess(settings, "worker", "--kinds", "cids", log=shell.folder / "worker").wait_ready()
        until(lambda: lag() == 0, 90, "everything to be ingested")
        assert worker.stop() == 0

    publish(settings, 20)
    begins = shell.run(f"headrace kafka get-offsets --topic {TOPIC} --time earliest").split()
    (shell.folder / "offsets.csv").write_text("".join(f"{line.replace(':', ',')}\n" for line in begins))
    ingest()
    before = counts()
    deliveries = sql.execute("select sum(deliveries) from sources").fetchone()
    assert before["records"] >= 20
    for how in (
        "--from-file offsets.csv",
        f"--topic {TOPIC} --by-duration PT1H",
        f"--topic {TOPIC} --shift-by -1",
        f"--topic {TOPIC} --to-datetime 2020-01-01T00:00:00.000",
        f"--topic {TOPIC}:0,1,2,3 --to-offset 0",
        f"--topic {TOPIC} --to-earliest",
    ):
        shell.run(f"{GROUPS} {SMALL.name} --reset-offsets {how} --dry-run")
        shell.run(f"{GROUPS} {SMALL.name} --reset-offsets {how} --execute")
        assert lag() > 0, how
        ingest()
        assert counts() == before, how
    assert sql.execute("select sum(deliveries) from sources").fetchone() == deliveries
