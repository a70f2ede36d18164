"""How many messages wait for the workers, and since when: asked of Kafka, so that it is known while they are dead."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace.runtime.kafka import client_config, kafka_failed
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import offset_bounds, partitions_of
from headrace.schemas.topics import WORKER_GROUPS, PartitionKey, input_topic

_REQUEST_S_MAX = 3.0
_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Backlog:
    """The messages of an input topic that are not ingested; `oldest_us` is the time of the oldest, None without any."""

    topic: str
    messages: int
    oldest_us: int | None


def read_backlogs(settings: Settings) -> list[Backlog]:
    """Return the backlog of each input topic.

    Raises:
        HeadraceError: Kafka does not answer, or refuses.
    """
    backlogs = []
    for group, kinds in WORKER_GROUPS.items():
        consumer = Consumer(
            client_config(
                settings,
                group_id=group,  # it never subscribes: it asks for the group's offsets without being a member
                enable_auto_commit=False,
                isolation_level="read_committed",
                enable_partition_eof=True,
                fetch_message_max_bytes=1,
                queued_min_messages=1,
            )
        )
        try:
            backlogs += _of_topics(consumer, [input_topic(kind).name for kind in sorted(kinds)])
        except KafkaException as error:
            raise kafka_failed(settings, error.args[0]) from None
        finally:
            consumer.close()
    return backlogs


def _of_topics(consumer: Consumer, topics: Sequence[str]) -> list[Backlog]:
    keys = [key for topic in topics for key in partitions_of(consumer, topic, timeout_s=_REQUEST_S_MAX)]
    committed = consumer.committed([TopicPartition(*key) for key in keys], timeout=_REQUEST_S_MAX)
    bounds = offset_bounds(consumer, keys, timeout_s=_REQUEST_S_MAX)
    starts: dict[PartitionKey, int] = {}
    for position in committed:
        key = (position.topic, position.partition)
        first, end = bounds[key]
        # Negative where the group has committed nothing; below the first where retention has deleted more.
        if (start := max(position.offset, first)) < end:
            starts[key] = start
    times, empty = _first_times(consumer, starts)
    lags = {key: bounds[key][1] - start for key, start in starts.items() if key not in empty}
    return [
        Backlog(
            topic,
            sum(lag for key, lag in lags.items() if key[0] == topic),
            min((time_us for key, time_us in times.items() if key[0] == topic), default=None),
        )
        for topic in topics
    ]


def _first_times(
    consumer: Consumer, starts: Mapping[PartitionKey, int]
) -> tuple[dict[PartitionKey, int], set[PartitionKey]]:
    """Return the time of the first message at each offset, and the partitions where only transaction markers follow.

    A partition that gives no answer in time is in neither.
    """
    times: dict[PartitionKey, int] = {}
    empty: set[PartitionKey] = set()
    consumer.assign([TopicPartition(*key, start) for key, start in starts.items()])
    deadline = time.monotonic() + _REQUEST_S_MAX
    while len(times) + len(empty) < len(starts) and time.monotonic() < deadline:
        message = consumer.poll(_POLL_S)
        if message is None:
            continue
        key, error = (message.topic() or "", message.partition() or 0), message.error()
        if error is None:
            times.setdefault(key, message.timestamp()[1] * 1000)
            consumer.pause([TopicPartition(*key)])
        elif error.code() == KafkaError._PARTITION_EOF and key not in times:  # noqa: SLF001 - the binding's own name
            empty.add(key)
    return times, empty
