"""A topic's messages as JSON, read without a consumer group: nobody's offsets move."""

import asyncio
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import client_config, kafka_unreachable, wait_for_kafka
from headrace.runtime.settings import Settings
from headrace.schemas.codec import decode
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import TOPICS, Topic

_REQUEST_S = 10.0
_POLL_S = 0.5
_SHOWN_BYTES_MAX = 4096
_MEASURED = frozenset({"body", "value"})  # bytes that nobody reads on a terminal: their length is shown, unless JSON


def topic_lines(
    settings: Settings, name: str, *, start: datetime | None, end: datetime | None, follow: bool
) -> Iterator[dict[str, Any]]:
    """Yield each message as a JSON object with `at` (where it stands), `headers`, and `event` or `undecodable`.

    Without `follow` it ends where the topic ended when it began. Times without a zone are UTC.

    Raises:
        HeadraceError: no such topic, or Kafka does not answer.
    """
    if name not in TOPICS:
        raise HeadraceError(
            "topic_unknown",
            f"{name} is no topic of Headrace",
            hint=f"one of: {', '.join(TOPICS)}",
            exit_code=Exit.USAGE,
        )
    asyncio.run(wait_for_kafka(settings))
    consumer = Consumer(
        client_config(settings, group_id="headrace-cat", enable_auto_commit=False, isolation_level="read_committed")
        | {"enable.partition.eof": True}
    )
    try:
        yield from _lines(consumer, TOPICS[name], start, None if follow and end is None else _ms(end, OFFSET_END))
    except KafkaException as error:
        raise kafka_unreachable(settings, error.args[0]) from None
    finally:
        consumer.close()


def _lines(consumer: Consumer, topic: Topic, start: datetime | None, end_ms: int | None) -> Iterator[dict[str, Any]]:
    about = consumer.list_topics(topic.name, timeout=_REQUEST_S).topics[topic.name]
    begin = [TopicPartition(topic.name, number, _ms(start, OFFSET_BEGINNING)) for number in about.partitions]
    if start is not None:
        begin = consumer.offsets_for_times(begin, timeout=_REQUEST_S)
    consumer.assign(begin)
    open_partitions = set(about.partitions)
    while open_partitions:
        message = consumer.poll(_POLL_S)
        if message is None:
            continue
        partition = message.partition() or 0
        if (error := message.error()) is not None:
            if error.code() == KafkaError._ALL_BROKERS_DOWN or error.fatal():  # noqa: SLF001 - the binding's own name
                raise KafkaException(error)
            # Of the rest only the end of a partition is of interest: librdkafka retries what else it reports.
            if end_ms is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
                open_partitions.discard(partition)
            continue
        if end_ms is not None and end_ms >= 0 and message.timestamp()[1] >= end_ms:
            open_partitions.discard(partition)
        elif partition in open_partitions:
            yield _line(message, topic)


def _ms(time: datetime | None, otherwise: int) -> int:
    if time is None:
        return otherwise
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _line(message: Message, topic: Topic) -> dict[str, Any]:
    try:
        pairs: list[tuple[str, bytes | None]] = list(message.headers() or [])  # type: ignore[arg-type]
    except (SystemError, UnicodeDecodeError):
        # The binding cannot name a header whose name is not UTF-8, and then gives none of them.
        pairs = [("undecodable", b"the names of this message's headers are not text")]
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
