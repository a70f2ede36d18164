"""Where consumer groups stand in the topics that all tests share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from confluent_kafka import Consumer, KafkaException, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.schemas.topics import CAPTURE_REQUESTS, ingested_topic, input_topic
from headrace.streams.worker.profile import LARGE, SMALL
from tests.waiting import until

EMPTY_S_MAX = 90.0  # a member that was killed is missed for the time of its session
_REQUEST_S = 10.0

FRAMES = (ingested_topic(Kind.FRAME).name,)
GROUPS: Mapping[str, Sequence[str]] = {
    SMALL.name: [input_topic(kind).name for kind in SMALL.kinds],
    LARGE.name: [input_topic(kind).name for kind in LARGE.kinds],
    "headrace-preprocessing": FRAMES,
    "headrace-perception": FRAMES,
    "headrace-capture": (CAPTURE_REQUESTS.name,),
}
"""The groups of the service's processes, and the topics that each reads."""


def skip_backlog(settings: Settings, groups: Iterable[str] = GROUPS) -> None:
    """Let groups begin at the ends of their topics: what other tests published there is not for them."""
    for group in groups:
        commit(settings, group, partial(topic_ends, topics=GROUPS[group]))


def commit(settings: Settings, group: str, places: Callable[[Consumer], list[TopicPartition]]) -> None:
    """Commit offsets in the name of a group, as soon as nobody belongs to it."""
    consumer = Consumer(client_config(settings, group_id=group, enable_auto_commit=False) | {"log_level": 0})

    def committed() -> bool:
        # A group may still have a member that was killed, and topics that were just made no leader yet.
        try:
            done = consumer.commit(offsets=places(consumer), asynchronous=False)
        except KafkaException:
            return False
        return all(place.error is None for place in done or ())

    try:
        until(committed, EMPTY_S_MAX, f"the group {group} to have no members")
    finally:
        consumer.close()


def topic_ends(consumer: Consumer, topics: Iterable[str]) -> list[TopicPartition]:
    """The offsets at which the partitions of topics end; raises KafkaException where one has no leader."""
    return [
        TopicPartition(topic, number, consumer.get_watermark_offsets(TopicPartition(topic, number), _REQUEST_S)[1])
        for topic in topics
        for number in consumer.list_topics(topic, timeout=_REQUEST_S).topics[topic].partitions
    ]
