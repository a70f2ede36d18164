"""Reads topics from given offsets up to given ends, without joining a consumer group or committing offsets.

Every call blocks and belongs on one thread.
"""

import gc
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from operator import methodcaller
from typing import Any, TypeAlias

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.kafka import PASSING, client_config, kafka_failed
from headrace.runtime.settings import Settings
from headrace.schemas.topics import PartitionKey

NO_END = sys.maxsize
"""As the end of a partition: read on as messages arrive."""

MessageHeaders: TypeAlias = list[tuple[str, bytes | None]]
"""A message's headers, as librdkafka returns them."""

_REQUEST_S_MAX = 10.0
_SILENCE_S_MAX = 30.0
"""Longer than a transaction may stay open, and with it the end of what is committed."""
_MESSAGES_MAX = 2000
_WAIT_S = 0.1
_RETRY_S = 0.1
_HEADERS = methodcaller("headers")
_QUEUED_KIB_MAX = 32 * 1024


@contextmanager
def reading_consumer(settings: Settings, group_id: str, **extra: Any) -> Iterator[Consumer]:
    """Open a consumer for a `TopicReader` and close it afterwards.

    It reads what is committed, unless `extra` says otherwise. librdkafka requires a group id; the consumer never joins
    the group or commits to it.

    Raises:
        HeadraceError: Kafka does not answer or refuses a request.
    """
    config: dict[str, Any] = {
        "isolation_level": "read_committed",
        "enable_auto_commit": False,
        "enable_partition_eof": True,
        "auto_offset_reset": "earliest",
        "queued_max_messages_kbytes": _QUEUED_KIB_MAX,
    }
    consumer = Consumer(client_config(settings, group_id=group_id, **config | extra))
    try:
        yield consumer
    except KafkaException as error:
        raise kafka_failed(settings, error.args[0]) from None
    finally:
        consumer.close()


def offset_bounds(
    consumer: Consumer, keys: Iterable[PartitionKey], *, timeout_s: float = _REQUEST_S_MAX
) -> dict[PartitionKey, tuple[int, int]]:
    """Return the first offset of each partition, and the offset after its last message.

    For a `read_committed` consumer the end is the last stable offset. A partition that has no leader, as right after
    its topic was created or its broker was killed, is waited for.

    Raises:
        KafkaException: Kafka does not answer within `timeout_s` seconds.
    """
    deadline_s = time.monotonic() + timeout_s
    return {key: _bounds_of(consumer, key, deadline_s) for key in keys}


def _bounds_of(consumer: Consumer, key: PartitionKey, deadline_s: float) -> tuple[int, int]:
    while True:
        left_s = max(deadline_s - time.monotonic(), 0.001)
        try:
            bounds = consumer.get_watermark_offsets(TopicPartition(*key), timeout=left_s, cached=False)
        except KafkaException as error:
            if error.args[0].code() not in PASSING or left_s <= _RETRY_S:
                raise KafkaException(with_acl(error.args[0], Operation.DESCRIBE, key[0])) from None
            time.sleep(_RETRY_S)
            continue
        if bounds is None:
            raise _timed_out(f"{key[0]} [{key[1]}] did not report its offsets")
        return bounds


def partitions_of(consumer: Consumer, topic: str, *, timeout_s: float = _REQUEST_S_MAX) -> list[PartitionKey]:
    """Return the partitions of a topic.

    Raises:
        KafkaException: Kafka does not answer, or the topic does not exist.
    """
    metadata = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
    if metadata.error is not None:
        raise KafkaException(with_acl(metadata.error, Operation.DESCRIBE, topic))
    return [(topic, partition) for partition in metadata.partitions]


def headers_of(message: Message) -> MessageHeaders | None:
    """Return a message's headers, or None if a header's name is not UTF-8.

    The binding sets an exception for such a name and returns a broken list all the same. A garbage collection in the
    same call would discard the exception, so nothing is collected meanwhile; and the interpreter does not look for it
    after a call that it has specialized, so the method is called by a C function, which does.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return list(_HEADERS(message) or [])
    except (SystemError, UnicodeDecodeError):
        return None
    finally:
        if collects:
            gc.enable()


class TopicReader:
    """Reads each partition from its start offset up to its end offset (exclusive), through an open consumer.

    Control records of transactions have offsets but are no messages, so the end counts as reached when librdkafka
    reports the end of the partition (`enable.partition.eof`).
    """

    def __init__(
        self,
        consumer: Consumer,
        ranges: Mapping[PartitionKey, tuple[int, int]],
        *,
        silence_s_max: float | None = _SILENCE_S_MAX,
        on_error: Callable[[KafkaError], None] | None = None,
    ) -> None:
        """Assign the partitions that are not empty.

        `silence_s_max` limits the seconds without any progress. An error that librdkafka reports is raised, or else
        given to `on_error`: librdkafka retries most of them by itself.
        """
        self._consumer = consumer
        self._silence_s_max = silence_s_max
        self._on_error = on_error or _raise
        self._ends = {key: end for key, (start, end) in ranges.items() if start < end}
        self.next_offsets = {key: start for key, (start, _) in ranges.items()}
        """The offset after what was read, for each partition; it never exceeds the partition's end."""
        consumer.assign([TopicPartition(*key, self.next_offsets[key]) for key in self._ends])
        self._progress_at_s = time.monotonic()

    @property
    def unfinished(self) -> list[PartitionKey]:
        """The partitions that were not read to their end yet."""
        return list(self._ends)

    def read(self, messages_max: int = _MESSAGES_MAX, wait_s: float = _WAIT_S) -> list[Message]:
        """Return the next messages before the ends: at most so many, none if nothing arrives within `wait_s` seconds.

        Raises:
            KafkaException: Kafka failed, or there was no progress for `silence_s_max` seconds.
        """
        if not self._ends:
            return []
        messages = []
        for message in self._consumer.consume(messages_max, wait_s):
            error = message.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - the binding's own name
                self._on_error(with_acl(error, Operation.READ, message.topic()))
                continue
            self._progress_at_s = time.monotonic()
            if self._advance(message, is_end=error is not None):
                messages.append(message)
        if self._ends and self._silence_s_max is not None:
            self._check_silence(self._silence_s_max)
        return messages

    def __iter__(self) -> Iterator[Message]:
        """Yield all messages up to the ends; raises what `read` raises."""
        while self._ends:
            yield from self.read()

    def _advance(self, message: Message, *, is_end: bool) -> bool:
        """Note how far a partition was read, and return whether this is a new message before its end."""
        key, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
        end = self._ends.get(key)
        if end is None:
            return False
        is_new = self.next_offsets[key] <= offset < end
        reached = offset if is_end else offset + 1
        self.next_offsets[key] = max(self.next_offsets[key], min(reached, end))
        if reached >= end:
            del self._ends[key]
        return is_new and not is_end

    def _check_silence(self, s_max: float) -> None:
        if time.monotonic() - self._progress_at_s > s_max:
            topic, partition = next(iter(self._ends))
            raise _timed_out(f"the end of {topic} [{partition}] was not reached: a transaction may still be open")


def _raise(error: KafkaError) -> None:
    raise KafkaException(error)


def _timed_out(reason: str) -> KafkaException:
    return KafkaException(KafkaError(KafkaError._TIMED_OUT, reason))  # noqa: SLF001 - the binding's own name
