"""What MirrorMaker keeps in its internal topics at the target: how far it has read, and how its tasks are.

In dedicated mode its REST interface serves only the workers among themselves, so the topics are the way to ask.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import orjson
from confluent_kafka import Consumer, KafkaException

from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of
from headrace.schemas.topics import PartitionKey

K = TypeVar("K")
V = TypeVar("V")

_CONNECTOR = "MirrorSourceConnector"
_TASK = f"status-task-{_CONNECTOR}-"
_TRACE_CHARACTERS_MAX = 200
_SILENCE_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The state of a task, RUNNING if it copies, and the first line of its error."""

    state: str
    error: str


class InternalTopic(Generic[K, V]):
    """Follows a compacted topic: `values` has the newest value of each key that `parse` takes."""

    def __init__(
        self, consumer: Consumer, topic: str, parse: Callable[[bytes, bytes | None], tuple[K, V | None] | None]
    ) -> None:
        """Follow it from its beginning; nothing is read yet."""
        self.values: dict[K, V] = {}
        self.keys: dict[K, bytes] = {}
        """The key of each value as it stands in the topic."""
        self._consumer = consumer
        self._topic = topic
        self._parse = parse
        self._next: dict[PartitionKey, int] = {}

    def refresh(self) -> None:
        """Read what is new; a topic that does not exist is empty.

        Raises:
            KafkaException: Kafka does not answer.
        """
        try:
            keys = partitions_of(self._consumer, self._topic)
        except KafkaException as error:
            if error.args[0].code() == error.args[0].UNKNOWN_TOPIC_OR_PART:
                return
            raise
        bounds = offset_bounds(self._consumer, keys)
        ranges = {key: (max(start, self._next.get(key, start)), end) for key, (start, end) in bounds.items()}
        reader = patient_reader(self._consumer, ranges)
        for message in reader:
            self._take(message.key() or b"", message.value())
        self._next |= reader.next_offsets

    def _take(self, key: bytes, value: bytes | None) -> None:
        parsed = self._parse(key, value)
        if parsed is None:
            return
        name, content = parsed
        if content is None:
            self.values.pop(name, None)
        else:
            self.values[name] = content
            self.keys[name] = key


def patient_reader(consumer: Consumer, ranges: Mapping[PartitionKey, tuple[int, int]]) -> TopicReader:
    """Return a reader that goes on after errors which librdkafka retries, such as a leader that has changed.

    Without any progress for 10 s it raises a KafkaException.
    """
    return TopicReader(consumer, ranges, silence_s_max=_SILENCE_S_MAX, on_error=lambda _: None)


def parse_offset(key: bytes, value: bytes | None) -> tuple[PartitionKey, int | None] | None:
    """Return a partition of the source and the offset after the last message that was copied."""
    content = _json(key)
    match content:
        case [str(connector), {"topic": str(topic), "partition": int(partition)}] if connector == _CONNECTOR:
            offset = _json(value)
            copied = offset["offset"] if isinstance(offset, dict) else None
            return (topic, partition), None if copied is None else copied + 1
        case _:
            return None


def parse_status(key: bytes, value: bytes | None) -> tuple[str, TaskStatus | None] | None:
    """Return the number of a task that copies, and its state."""
    name = key.decode(errors="replace")
    if not name.startswith(_TASK):
        return None
    content = _json(value)
    if not isinstance(content, dict):
        return name.removeprefix(_TASK), None
    lines = (content.get("trace") or "").splitlines()
    causes = [line for line in lines if line.startswith("Caused by: ")] or lines[:1]
    error = causes[-1].removeprefix("Caused by: ")[:_TRACE_CHARACTERS_MAX] if causes else ""
    return name.removeprefix(_TASK), TaskStatus(str(content.get("state")), error)


def _json(text: bytes | None) -> object:
    try:
        return orjson.loads(text or b"null")
    except orjson.JSONDecodeError:
        return None
