"""The messages of a topic as JSON, read without a consumer group, so that no offsets are committed."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.runtime.acl import REFUSED
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import wait_for_kafka
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import (
    NO_END,
    TopicReader,
    headers_of,
    offset_bounds,
    partitions_of,
    reading_consumer,
)
from headrace.schemas.codec import decode
from headrace.schemas.headers import unix_us_of
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import TOPICS, PartitionKey, Topic

_REQUEST_S = 10.0
_SHOWN_BYTES_MAX = 4096
_MEASURED = frozenset({"body", "value"})  # shown as their length unless they are JSON


def dump_topic(
    settings: Settings, name: str, *, start: datetime | None, end: datetime | None, follow: bool
) -> Iterator[dict[str, Any]]:
    """Yield each message as a JSON object: `at` (topic, partition, offset, time), `headers`, `event` or `undecodable`.

    Without `follow`, reading ends at the offset that was the topic's end at the start. Times without a zone are UTC.

    Raises:
        HeadraceError: the topic is not one of Headrace, or Kafka does not answer.
    """
    if name not in TOPICS:
        raise HeadraceError(
            "topic_unknown",
            f"{name} is not a topic of Headrace",
            hint=f"one of: {', '.join(TOPICS)}",
            exit_code=Exit.USAGE,
        )
    asyncio.run(wait_for_kafka(settings))
    topic = TOPICS[name]
    with reading_consumer(settings, "headrace-cat") as consumer:
        if follow and end is None:
            ranges = {key: (begin, NO_END) for key, (begin, _) in _ranges(consumer, topic, start, None).items()}
            reader = TopicReader(consumer, ranges, silence_s_max=None, on_error=_raise_if_down)
        else:
            reader = TopicReader(consumer, _ranges(consumer, topic, start, end), on_error=_raise_if_down)
        for message in reader:
            yield _line(message, topic)


def _ranges(
    consumer: Consumer, topic: Topic, start: datetime | None, end: datetime | None
) -> dict[PartitionKey, tuple[int, int]]:
    """Return the offset range of each partition between the two times, within what is in the topic now."""
    bounds = offset_bounds(consumer, partitions_of(consumer, topic.name))
    starts = _offsets_at(consumer, bounds, start) if start else {}
    ends = _offsets_at(consumer, bounds, end) if end else {}
    return {key: (starts.get(key, low), ends.get(key, high)) for key, (low, high) in bounds.items()}


def _offsets_at(
    consumer: Consumer, bounds: Mapping[PartitionKey, tuple[int, int]], time: datetime
) -> dict[PartitionKey, int]:
    """Return the offset of each partition's first message at or after a time, or else the end of the partition."""
    time_ms = round(unix_us_of(time) / 1000)
    partitions = consumer.offsets_for_times([TopicPartition(*key, time_ms) for key in bounds], timeout=_REQUEST_S)
    return {
        (at.topic, at.partition): at.offset if at.offset >= 0 else bounds[at.topic, at.partition][1]
        for at in partitions
    }


def _raise_if_down(error: KafkaError) -> None:
    # librdkafka retries after all other errors.
    is_down = error.code() == KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 - the binding's own name
    if is_down or error.fatal() or error.code() in REFUSED:
        raise KafkaException(error)


def _line(message: Message, topic: Topic) -> dict[str, Any]:
    pairs = headers_of(message)
    if pairs is None:
        pairs = [("undecodable", b"a header name of this message is not UTF-8")]
    line: dict[str, Any] = {
        "at": {
            "topic": topic.name,
            "partition": message.partition(),
            "offset": message.offset(),
            "time": datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC).isoformat(),
        },
        "key": _text(message.key()),
        "headers": {name: _text(value) for name, value in pairs},
    }
    try:
        event: Any = decode(message.value(), topic.event)
    except RejectedError as rejected:
        return line | {"undecodable": str(rejected)}
    return line | {"event": {field.name: _shown(field.name, getattr(event, field.name)) for field in fields(event)}}


def _shown(name: str, value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    if name not in _MEASURED or value[:1] == b"{":
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            pass
    return f"{len(value)} bytes"


def _text(value: bytes | str | None) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value[:_SHOWN_BYTES_MAX].decode("utf-8", "backslashreplace")
