"""The messages of a topic as JSON, read without a consumer group, so that no offsets are committed."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.runtime.acl import REFUSED
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import reach_kafka, wait_for_kafka
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
from headrace.schemas.events import Ingested
from headrace.schemas.headers import unix_us_of
from headrace.schemas.registry import REGISTRY
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import TOPICS, PartitionKey

_REQUEST_S = 10.0
_SHOWN_BYTES_MAX = 4096
_MEASURED = frozenset({"body", "value"})  # shown as their length unless they are JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """Which messages of a topic are printed; None for all. Times without a zone are UTC."""

    name: str = field(kw_only=False)
    start: datetime | None = None
    end: datetime | None = None
    partition: int | None = None
    offset: int | None = None
    key: str | None = None
    headers_only: bool = False


def dump_topic(settings: Settings, wanted: Dump, *, follow: bool) -> Iterator[dict[str, Any]]:
    """Yield each message as a JSON object: `at` (topic, partition, offset, time), `headers`, `event` or `undecodable`.

    Without `follow`, reading ends at the offset that was the topic's end at the start.

    Raises:
        HeadraceError: there is no such topic or partition, or Kafka does not answer.
    """
    if wanted.offset is not None and (wanted.partition is None or wanted.start is not None):
        raise _wrong("an offset is of one partition, and the only beginning", "pass --partition, and not --from")
    _require_topic(settings, wanted.name)
    with reading_consumer(settings, "headrace-cat") as consumer:
        if follow and wanted.end is None:
            ranges = {key: (begin, NO_END) for key, (begin, _) in _ranges(consumer, wanted).items()}
            reader = TopicReader(consumer, ranges, silence_s_max=None, on_error=_raise_if_down)
        else:
            reader = TopicReader(consumer, _ranges(consumer, wanted), on_error=_raise_if_down)
        for message in reader:
            if wanted.key is None or _text(message.key()) == wanted.key:
                yield _line(message, wanted)


def _require_topic(settings: Settings, name: str) -> None:
    """Check that a topic is one of Headrace, or exists: a mirrored one, or what a replay wrote."""
    if name in TOPICS:
        asyncio.run(wait_for_kafka(settings))
        return
    unknown = _wrong(f"{name} is not a topic of Headrace", f"one of: {', '.join(TOPICS)}", code="topic_unknown")
    try:
        known = reach_kafka(settings).list_topics(timeout=_REQUEST_S).topics
    except (HeadraceError, KafkaException):
        raise unknown from None
    if name not in known:
        raise unknown


def _wrong(what: str, hint: str, *, code: str = "option_invalid") -> HeadraceError:
    return HeadraceError(code, what, hint=hint, exit_code=Exit.USAGE)


def _ranges(consumer: Consumer, wanted: Dump) -> dict[PartitionKey, tuple[int, int]]:
    """Return the offset range that is wanted of each partition, within what is in the topic now."""
    keys = partitions_of(consumer, wanted.name)
    if wanted.partition is not None:
        keys = [key for key in keys if key[1] == wanted.partition]
        if not keys:
            raise _wrong(f"{wanted.name} has no partition {wanted.partition}", "headrace kafka topics --describe")
    bounds = offset_bounds(consumer, keys)
    starts = _offsets_at(consumer, bounds, wanted.start) if wanted.start else {}
    ends = _offsets_at(consumer, bounds, wanted.end) if wanted.end else {}
    if wanted.offset is not None:
        starts = {key: max(low, wanted.offset) for key, (low, _) in bounds.items()}
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


def _line(message: Message, wanted: Dump) -> dict[str, Any]:
    pairs = headers_of(message)
    if pairs is None:
        pairs = [("undecodable", b"a header name of this message is not UTF-8")]
    line: dict[str, Any] = {
        "at": {
            "topic": wanted.name,
            "partition": message.partition(),
            "offset": message.offset(),
            "time": datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC).isoformat(),
        },
        "key": _text(message.key()),
        "headers": {name: _text(value) for name, value in pairs},
    }
    if wanted.headers_only:
        return line
    try:
        event: Any = decode(message.value(), _event_of(message, wanted.name))
    except RejectedError as rejected:
        return line | {"undecodable": str(rejected)}
    return line | {"event": {each.name: _shown(each.name, getattr(event, each.name)) for each in fields(event)}}


def _event_of(message: Message, topic: str) -> type[Any]:
    """Return what a topic carries; of a topic that is not declared, what the message's schema says."""
    if topic in TOPICS:
        return TOPICS[topic].event
    schema = REGISTRY.by_id(int.from_bytes((message.value() or b"")[1:5], "big"))
    return next((known.event for known in TOPICS.values() if schema and known.event.__name__ == schema.name), Ingested)


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
