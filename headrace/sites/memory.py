"""What a mirror remembers, in a compacted topic of the target: which topics it copied, and what was lost before."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headrace.runtime.kafka import DeliveryErrors, client_config, kafka_failed
from headrace.runtime.settings import Settings
from headrace.sites.mm2 import MEMORY_TOPIC

RECENT_S = 86_400.0

_REQUEST_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Offsets of a source from `first` (inclusive) to `until` that were never copied; `at` is in seconds since 1970."""

    link: str
    topic: str
    partition: int
    first: int
    until: int
    at: float

    @property
    def is_recent(self) -> bool:
        """Whether it was found within the last day."""
        return time.time() - self.at < RECENT_S


LossKey = tuple[str, str, int, int]
"""The link, the topic, the partition and the first offset: the same loss that has grown replaces itself."""


def parse_loss(key: bytes, value: bytes | None) -> tuple[LossKey, Loss | None] | None:
    """Return a message of the topic."""
    try:
        match orjson.loads(key), orjson.loads(value or b"null"):
            case [[str(link), str(topic), int(partition), int(first)], {"until": int(until), "at": float(at)}]:
                loss = Loss(link=link, topic=topic, partition=partition, first=first, until=until, at=at)
                return (link, topic, partition, first), loss
    except orjson.JSONDecodeError:
        pass
    return None


def ensure_memory(settings: Settings, admin: AdminClient) -> None:
    """Create the topic at the target if it is missing.

    Raises:
        HeadraceError: Kafka refuses, or does not answer.
    """
    try:
        if MEMORY_TOPIC not in admin.list_topics(timeout=_REQUEST_S).topics:
            topic = NewTopic(MEMORY_TOPIC, 1, settings.kafka_replicas, config={"cleanup.policy": "compact"})
            admin.create_topics([topic], request_timeout=_REQUEST_S)[MEMORY_TOPIC].result(_REQUEST_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise kafka_failed(settings, error.args[0]) from None


def parse_topic_id(key: bytes, value: bytes | None) -> tuple[tuple[str, str], str | None] | None:
    """Return a link and a topic of its source, and the id that the topic had."""
    try:
        match orjson.loads(key), orjson.loads(value or b"null"):
            case [[str(link), str(topic)], {"id": str(topic_id)}]:
                return (link, topic), topic_id
    except orjson.JSONDecodeError:
        pass
    return None


def record_loss(settings: Settings, loss: Loss) -> None:
    """Keep a loss; the same one may be recorded again.

    Raises:
        HeadraceError: the target does not take it.
    """
    key = orjson.dumps([loss.link, loss.topic, loss.partition, loss.first])
    write_compacted(settings, MEMORY_TOPIC, {key: orjson.dumps({"until": loss.until, "at": loss.at})})


def record_topic_ids(settings: Settings, link: str, ids: Mapping[str, str]) -> None:
    """Keep the ids of topics of a source.

    Raises:
        HeadraceError: the target does not take them.
    """
    rows = {orjson.dumps([link, topic]): orjson.dumps({"id": topic_id}) for topic, topic_id in ids.items()}
    write_compacted(settings, MEMORY_TOPIC, rows)


def write_compacted(settings: Settings, topic: str, rows: Mapping[bytes, bytes | None]) -> None:
    """Write values by their keys; None deletes one.

    Raises:
        HeadraceError: the target does not take them.
    """
    errors = DeliveryErrors()
    producer = Producer(client_config(settings, acks="all", message_timeout_ms=int(_REQUEST_S * 1000)))
    for key, value in rows.items():
        producer.produce(topic, value, key, on_delivery=errors.note)
    producer.flush()
    if errors.first is not None:
        raise kafka_failed(settings, errors.first)
