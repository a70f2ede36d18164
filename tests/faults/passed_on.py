"""Whether what waited at one moment has gone through, while a workload goes on and something always waits."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from confluent_kafka import Consumer, KafkaException, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.schemas.topics import input_topic
from headrace.streams.worker.profile import LARGE, SMALL, Group
from tests.faults.world import SETTLE_S_MAX, FaultsWorld

_T = TypeVar("_T")
_Place = tuple[str, int]

_REQUEST_S = 5.0
_POLL_S = 0.5
_LAST = "select coalesce(max(id), 0) from outbox"
_WAITING = "select count(*) from outbox where published_at is null and id <= $1"


def wait_passed_on(world: FaultsWorld, seconds: float = SETTLE_S_MAX) -> None:
    """Wait until what is in the input topics now is committed, and what that left in the outbox is published.

    Raises:
        AssertionError: something of it still waits, or nobody can tell.
    """
    deadline = time.monotonic() + seconds
    consumers = {
        group: Consumer(client_config(world.settings, group_id=group.name, enable_auto_commit=False))
        for group in (SMALL, LARGE)
    }
    try:
        ends = {
            group: _asked(partial(_ends, world, group, consumer), deadline) for group, consumer in consumers.items()
        }
        for group, consumer in consumers.items():
            _wait(partial(_committed, consumer, ends[group]), deadline, f"{group.name} to commit what waited for it")
    finally:
        for consumer in consumers.values():
            consumer.close()
    # Only now, because what had waited in the topics is announced too.
    last = _asked(lambda: int(world.catalog.fetch(_LAST)[0][0]), deadline)
    _wait(lambda: world.catalog.fetch(_WAITING, last)[0][0] == 0, deadline, "the relay to publish what waited for it")


def _ends(world: FaultsWorld, group: Group, consumer: Consumer) -> Mapping[_Place, int]:
    """Return where each partition of a group ends; raises KafkaException where Kafka does not say."""
    ends: dict[_Place, int] = {}
    for topic in (input_topic(kind).name for kind in group.kinds):
        for partition in range(world.settings.kafka_partitions):
            place = TopicPartition(topic, partition)
            marks = consumer.get_watermark_offsets(place, timeout=_REQUEST_S, cached=False)
            if marks is None:
                raise KafkaException(f"{topic} [{partition}] did not say where it ends")
            low, high = marks
            if high > low:  # of an empty one there is nothing to commit
                ends[topic, partition] = high
    return ends


def _committed(consumer: Consumer, ends: Mapping[_Place, int]) -> bool:
    if not ends:
        return True
    committed = consumer.committed([TopicPartition(*place) for place in ends], timeout=_REQUEST_S)
    return all(
        partition.error is None and partition.offset >= ends[partition.topic, partition.partition]
        for partition in committed
    )


def _asked(ask: Callable[[], _T], deadline: float) -> _T:
    """Return an answer, asking again while whoever is asked is away."""
    while True:
        try:
            return ask()
        except (KafkaException, OSError) as error:
            if time.monotonic() > deadline:
                raise AssertionError(f"no answer in time: {error}") from error
            time.sleep(_POLL_S)


def _wait(condition: Callable[[], bool], deadline: float, what: str) -> None:
    while not _asked(condition, deadline):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(_POLL_S)
