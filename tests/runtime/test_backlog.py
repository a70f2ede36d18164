"""The backlog of the workers, asked of a real Kafka."""

import time
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from headrace.runtime import backlog as backlog_module
from headrace.runtime.backlog import read_backlogs
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings, load_settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic
from tests.processes import free_port


@pytest.fixture
def own_group(monkeypatch: pytest.MonkeyPatch, stack_settings: Settings) -> str:
    """A group that has read everything in the topic of clips so far."""
    group = f"test-{uuid4().hex}"
    monkeypatch.setattr(backlog_module, "WORKER_GROUPS", {group: frozenset({Kind.CLIP})})
    commit_ends(stack_settings, group)
    return group


def commit_ends(settings: Settings, group: str) -> None:
    topic = input_topic(Kind.CLIP).name
    consumer = Consumer(client_config(settings, group_id=group))
    try:
        keys = [TopicPartition(topic, number) for number in consumer.list_topics(topic, 10).topics[topic].partitions]
        for key in keys:
            key.offset = consumer.get_watermark_offsets(key, timeout=10)[1]
        consumer.commit(offsets=keys, asynchronous=False)
    finally:
        consumer.close()


@pytest.mark.stack
def test_what_waits_is_counted_with_the_time_of_the_oldest(stack_settings: Settings, own_group: str) -> None:
    assert [(backlog.messages, backlog.oldest_us) for backlog in read_backlogs(stack_settings)] == [(0, None)]
    began_us = time.time_ns() // 1000
    producer = Producer(client_config(stack_settings, acks="all"))
    for partition in (0, 0, 1):
        producer.produce(input_topic(Kind.CLIP).name, b"no clip", partition=partition)
    assert producer.flush(10) == 0
    [backlog] = read_backlogs(stack_settings)
    assert (backlog.topic, backlog.messages) == ("edge.clips.v1", 3)
    assert backlog.oldest_us is not None
    assert abs(backlog.oldest_us - began_us) < 60_000_000
    commit_ends(stack_settings, own_group)
    assert read_backlogs(stack_settings)[0].messages == 0


def test_without_kafka_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "_REQUEST_S_MAX", 0.3)
    with pytest.raises(HeadraceError, match="kafka"):
        read_backlogs(load_settings(_env_file=None, kafka_bootstrap=f"127.0.0.1:{free_port()}"))
