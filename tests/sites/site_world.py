"""Sites of a native stack: publishing at one, and reading what was mirrored with its origins."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from confluent_kafka import Consumer, Producer

from headrace.native import StackInfo, StackOptions, down, up
from headrace.native.config import ServiceSpec
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings, load_settings
from headrace.runtime.topic_reader import TopicReader, headers_of, offset_bounds, partitions_of
from tests.servers import in_memory_directory

ORIGIN = "headrace-origin"


@dataclass(frozen=True)
class Mirrored:
    """One message of a mirrored topic, and the place that its header names."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_type: int

    @property
    def origin(self) -> dict[str, object]:
        (text,) = (value for name, value in self.headers if name == ORIGIN)
        return dict(json.loads(text))


@contextmanager
def stack_of_sites(*names: str, brokers: int = 1, services: tuple[ServiceSpec, ...] = ()) -> Iterator[StackInfo]:
    """Run the Kafka of each site and a mirror into the last one, without PostgreSQL's service."""
    directory = in_memory_directory()
    options = StackOptions(directory, "local", 3 if brokers == 3 else 1, services, os.getpid(), names)
    try:
        yield up(options, print)
    finally:
        down(directory, purge=True, progress=print)
        shutil.rmtree(directory, ignore_errors=True)


def at(bootstrap: str, **changes: object) -> Settings:
    return load_settings(_env_file=None, kafka_bootstrap=bootstrap, **changes)


def publish(bootstrap: str, topic: str, values: list[bytes], *, headers: Mapping[str, bytes] | None = None) -> None:
    """Publish messages with their number as the key, and wait until all are acknowledged."""
    config = client_config(at(bootstrap), acks="all", message_max_bytes=10 * 1024 * 1024, enable_idempotence=True)
    producer = Producer(config)
    for number, value in enumerate(values):
        while True:
            try:
                producer.produce(topic, value, str(number).encode(), headers={**(headers or {})})
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def read_all(bootstrap: str, topic: str) -> list[Mirrored]:
    """Read everything that is committed in a topic."""
    config = client_config(
        at(bootstrap),
        group_id="test",
        isolation_level="read_committed",
        enable_auto_commit=False,
        enable_partition_eof=True,
        auto_offset_reset="earliest",
    )
    consumer = Consumer(config)
    try:
        reader = TopicReader(consumer, offset_bounds(consumer, partitions_of(consumer, topic)))
        return [
            Mirrored(
                message.topic() or "",
                message.partition() or 0,
                message.offset() or 0,
                message.key(),
                message.value(),
                tuple((name, value or b"") for name, value in headers_of(message) or ()),
                message.timestamp()[0],
            )
            for message in reader
        ]
    finally:
        consumer.close()


def places(messages: list[Mirrored]) -> list[tuple[object, ...]]:
    """The places at the source that the headers name, sorted."""
    return sorted((m.origin["topic"], m.origin["partition"], m.origin["offset"]) for m in messages)


def mirror_maker_of(stack_dir: Path) -> psutil.Process | None:
    """The process of MirrorMaker of a stack, or None where it does not run."""
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except psutil.Error:
            continue
        if words[:1] and words[0].endswith("java") and any(str(stack_dir / "mirror") in word for word in words):
            return process
    return None
