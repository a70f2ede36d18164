from collections import Counter
from dataclasses import replace
from random import Random

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions

from headrace.runtime.kafka import client_config
from headrace.schemas.events import Kind
from headrace.schemas.topics import DEAD_LETTERS, input_topic
from tests.faults.acks import Acks
from tests.faults.gather import committed_offsets
from tests.faults.line import MESSAGES, MIX, Line
from tests.faults.observed import Partition
from tests.faults.registry import line_experiment

_REQUEST_S = 30.0
_LIMITS = 1500, 3000
"""In bytes; an abridged dead letter has fewer than 1000."""
_REFUSED = replace(MIX, wrong_digests=0.3)


@line_experiment("E25", "retention deletes what nobody has ingested yet", ci=2, long=50)
def delete_waiting(line: Line, count: int, random: Random) -> Counter[str]:
    """Delete messages past the group's offset, while workers are away or at work; each is named as lost."""
    deleted = Counter[str]()
    for number in range(count):
        line.start()
        line.publish(line.plan(), MESSAGES)
        line.settle()
        while_away = number % 2 == 0
        if while_away:
            line.stop("worker-events", "worker-media")
        acks = line.publish(line.plan(), MESSAGES)
        how = "while the workers are away" if while_away else "while they work"
        deleted[f"deleted {how}"] += _delete_some(line, acks, random)
        if while_away:
            line.start("worker-events", "worker-media")
        line.publish(line.plan(), MESSAGES)
        line.settle()
        line.stop()
    line.start()
    return deleted


def _delete_some(line: Line, acks: Acks, random: Random) -> int:
    """Delete up to a message of each partition that the group has not reached; return how many partitions had one."""
    committed = committed_offsets(line.settings)
    waiting: dict[Partition, list[int]] = {}
    for ack in acks.acks:
        at = Partition(ack.place.topic, ack.place.partition)
        if ack.place.offset >= committed.get(at, 0):
            waiting.setdefault(at, []).append(ack.place.offset)
    # The last one stays: where nothing follows, nothing is read, and no offset is committed.
    places = [
        TopicPartition(at.topic, at.partition, random.choice(offsets[:-1]) + 1)
        for at, offsets in waiting.items()
        if len(offsets) > 1
    ]
    if not places:
        return 0
    admin = AdminClient(client_config(line.settings))
    for deletion in admin.delete_records(places).values():
        deletion.result(_REQUEST_S)
    return len(places)


@line_experiment("E26", "partitions are added to the topics under running workers", ci=1, long=10)
def add_partitions(line: Line, count: int, _random: Random) -> Counter[str]:
    """Give each input topic another partition; what is published there is ingested like everything else."""
    admin = AdminClient(client_config(line.settings))
    line.start()
    for _ in range(count):
        line.publish(line.plan(), MESSAGES)
        topics = admin.list_topics(timeout=_REQUEST_S).topics
        more = [
            NewPartitions(name, len(topics[name].partitions) + 1) for name in (input_topic(kind).name for kind in Kind)
        ]
        for addition in admin.create_partitions(more).values():
            addition.result(_REQUEST_S)
        line.publish(line.plan(), 2 * MESSAGES)
        line.settle()
    return Counter({"partitions added": count * len(Kind)})


@line_experiment("E32", "the limit of the dead letters' topic is lowered under a running relay", ci=1, long=20)
def lower_limit(line: Line, count: int, random: Random) -> Counter[str]:
    """Let the broker refuse the larger dead letters; they are abridged, and what comes after them is announced."""
    line.start()
    refused = 0
    for _ in range(count):
        line.publish(line.plan(), MESSAGES)
        line.settle()
        before, limit = _larger_than(line, _LIMITS[1]), random.randint(*_LIMITS)
        _set_limit(line, limit)
        try:
            while _larger_than(line, _LIMITS[1]) == before:
                line.publish(line.plan(_REFUSED), MESSAGES)
                line.settle()
        finally:
            _set_limit(line, DEAD_LETTERS.message_bytes_max)
        refused += _larger_than(line, _LIMITS[1]) - before
    line.publish(line.plan(), MESSAGES)
    return Counter({"dead letter refused": refused})


def _larger_than(line: Line, size_bytes: int) -> int:
    [[count]] = line.sql("select count(*) from dead_letters where octet_length(value) > $1", size_bytes)
    return int(count)


def _set_limit(line: Line, size_bytes: int) -> None:
    change = ConfigEntry("max.message.bytes", str(size_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, DEAD_LETTERS.name, incremental_configs=[change])
    admin = AdminClient(client_config(line.settings))
    for alteration in admin.incremental_alter_configs([resource]).values():
        alteration.result(_REQUEST_S)
