"""Reads the announcements in Kafka: the newest ones as they arrive, and earlier ones for streams that missed them.

No consumer group is joined and no offset committed. Every call blocks.
"""

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message

from headrace.gateway.live.event_buffer import StreamedEvent, announcement_event
from headrace.gateway.live.resume_token import TOPICS
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import (
    NO_END,
    TopicReader,
    offset_bounds,
    partitions_of,
    reading_consumer,
)
from headrace.schemas.codec import decode
from headrace.schemas.events import Ingested
from headrace.schemas.limits import MIB
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import PartitionKey

POLL_EVENTS_MAX = 500
POLL_S = 0.1  # also how long a stop waits for the thread
BACKFILL_EVENTS_MAX = 2000  # of one call; a stream that missed more calls again once these are sent
BACKFILL_BYTES_MAX = 2 * MIB
BACKFILL_S_MAX = 8.0  # a process has 18 s to stop
_REQUEST_S = 5.0
_GROUP_ID = "headrace-gateway"
_FETCH_CONFIG = {
    "queued_max_messages_kbytes": 2 * 1024,
    "fetch_queue_backoff_ms": 5,
    "fetch_wait_max_ms": 100,
    "reconnect_backoff_max_ms": 1000,
}


class AnnouncementReader:
    """Follows every partition of the announcement topics. All calls belong on one thread."""

    def __init__(self, settings: Settings) -> None:
        """Connect; nothing is read yet."""
        self._resources = ExitStack()
        self._consumer = self._resources.enter_context(
            reading_consumer(settings, _GROUP_ID, enable_partition_eof=False, **_FETCH_CONFIG)
        )
        self._reader = TopicReader(self._consumer, {})

    def bounds(self) -> dict[PartitionKey, tuple[int, int]]:
        """Return the first offset of each partition, and the offset after its last message.

        Raises:
            KafkaException: Kafka does not answer, or a topic does not exist.
        """
        return offset_bounds(self._consumer, self.partitions(), timeout_s=_REQUEST_S)

    def partitions(self) -> list[PartitionKey]:
        """Return the partitions of the topics.

        Raises:
            KafkaException: Kafka does not answer, or a topic does not exist.
        """
        return [key for topic in TOPICS for key in partitions_of(self._consumer, topic, timeout_s=_REQUEST_S)]

    def follow(self, offsets: Mapping[PartitionKey, int]) -> None:
        """Read these partitions from these offsets on."""
        self._reader = TopicReader(
            self._consumer,
            {key: (offset, NO_END) for key, offset in offsets.items()},
            silence_s_max=None,
            on_error=_raise_permanent,
        )

    def poll(self) -> list[tuple[PartitionKey, int, StreamedEvent | None]]:
        """Return the next messages as partition, offset and event; the event is None if it is not an announcement.

        Raises:
            KafkaException: Kafka refuses the request.
        """
        messages = self._reader.read(1, POLL_S)
        if messages:  # whatever else has arrived, without waiting for more
            messages += self._reader.read(POLL_EVENTS_MAX - 1, 0)
        return [_decode(message) for message in messages]

    def close(self) -> None:
        """Disconnect."""
        self._resources.close()


@dataclass(frozen=True, slots=True)
class MissedRange:
    """Offsets of a partition that Kafka no longer has: from `begin` up to `end`, exclusive."""

    key: PartitionKey
    begin: int
    end: int

    def as_json(self) -> dict[str, Any]:
        """Return the range as the `gap` event shows it."""
        return {"topic": self.key[0], "partition": self.key[1], "from": self.begin, "to": self.end}


@dataclass(slots=True)
class Backfill:
    """The result of one call: events, the next offset of each partition, and what Kafka no longer has."""

    events: list[StreamedEvent] = field(default_factory=list)
    next_offsets: dict[PartitionKey, int] = field(default_factory=dict)
    lost: list[MissedRange] = field(default_factory=list)


def partition_bounds(settings: Settings, keys: Iterable[PartitionKey]) -> dict[PartitionKey, tuple[int, int]]:
    """Return the first offset of each partition, and the offset after its last message.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    with reading_consumer(settings, _GROUP_ID) as consumer:
        return offset_bounds(consumer, keys, timeout_s=_REQUEST_S)


def read_backfill(
    settings: Settings, missing: Mapping[PartitionKey, tuple[int, int]], stop: threading.Event
) -> Backfill:
    """Read missed events from an offset of each partition up to another, or as many as one call returns.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    backfill, ranges = Backfill(), {}
    with reading_consumer(settings, _GROUP_ID, auto_offset_reset="error", **_FETCH_CONFIG) as consumer:
        for key, (low, high) in offset_bounds(consumer, missing, timeout_s=_REQUEST_S).items():
            begin, end = missing[key]
            if begin < low:
                backfill.lost.append(MissedRange(key, begin, min(low, end)))
            ranges[key] = (max(begin, min(low, end)), min(end, high))
        reader = TopicReader(consumer, ranges, silence_s_max=None, on_error=_raise_if_deleted)
        with suppress(_OffsetsDeletedError):  # the next call reports them as lost
            _read_events(reader, backfill, stop)
    unfinished = set(reader.unfinished)
    backfill.next_offsets = {
        key: reader.next_offsets[key] if key in unfinished else end for key, (_, end) in missing.items()
    }
    return backfill


class _OffsetsDeletedError(Exception):
    """Raised when Kafka deleted offsets after their bounds were read."""


def _read_events(reader: TopicReader, backfill: Backfill, stop: threading.Event) -> None:
    start_offsets, size_bytes, deadline_s = dict(reader.next_offsets), 0, time.monotonic() + BACKFILL_S_MAX
    while (
        reader.unfinished
        and len(backfill.events) < BACKFILL_EVENTS_MAX
        and size_bytes < BACKFILL_BYTES_MAX
        and not stop.is_set()
    ):
        if time.monotonic() > deadline_s:
            if reader.next_offsets == start_offsets and not backfill.lost:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - the binding's own name
            return
        # One message at a time, so that a call does not wait for more than there are.
        for message in reader.read(1, POLL_S):
            _, _, event = _decode(message)
            if event is not None:
                backfill.events.append(event)
                size_bytes += event.size_bytes


def _decode(message: Message) -> tuple[PartitionKey, int, StreamedEvent | None]:
    key, offset = (message.topic() or "", message.partition() or 0), message.offset() or 0
    try:
        return key, offset, announcement_event(decode(message.value(), Ingested), key, offset)
    except RejectedError as rejected:
        get_log().warning(Action.UNDECODABLE, topic=key[0], partition=key[1], offset=offset, why=rejected.reason)
        return key, offset, None


def _raise_permanent(error: KafkaError) -> None:
    if error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise KafkaException(error)


def _raise_if_deleted(error: KafkaError) -> None:
    if error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001 - the binding's own name
        raise _OffsetsDeletedError
    _raise_permanent(error)
