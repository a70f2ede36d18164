"""What streams have missed and the ring has no more, read from Kafka. Everything here blocks."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message

from headrace.gateway.live.announcements import POLL_S, bounds_by, consumer_of, happening_of, place_of
from headrace.gateway.live.resume_token import TopicPartitionRef
from headrace.gateway.live.stream_event import StreamedEvent
from headrace.runtime.kafka import kafka_unreachable
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader
from headrace.schemas.limits import MIB

EVENTS_MAX = 2000  # of one reading; a stream that has missed more asks again once these are sent
BYTES_MAX = 2 * MIB
READ_S_MAX = 8.0  # a process has 18 s to stop


@dataclass(frozen=True, slots=True)
class LostRange:
    """A part of a partition that Kafka does not have."""

    place: TopicPartitionRef
    begin: int
    end: int

    def as_json(self) -> dict[str, Any]:
        """Return it as the `gap` event names it."""
        return {"topic": self.place[0], "partition": self.place[1], "from": self.begin, "to": self.end}


@dataclass(slots=True)
class BackfillPart:
    """What one reading gave: events, where each place goes on, and what is lost."""

    events: list[StreamedEvent] = field(default_factory=list)
    nexts: dict[TopicPartitionRef, int] = field(default_factory=dict)
    lost: list[LostRange] = field(default_factory=list)


def read_gap(
    settings: Settings, missing: Mapping[TopicPartitionRef, tuple[int, int]], stop: threading.Event
) -> BackfillPart:
    """Read what a stream has missed of each place, from an offset up to another, or as much as one reading gives.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    consumer = consumer_of(settings, auto_offset_reset="error", enable_partition_eof=True)
    try:
        bounds = bounds_by(settings, consumer, missing)
        reading = _Reading(missing, bounds)
        reading.read(consumer, stop)
    finally:
        consumer.close()
    if reading.stands_still and not stop.is_set():
        raise kafka_unreachable(settings, KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    return reading.part


class _Reading:
    def __init__(
        self, missing: Mapping[TopicPartitionRef, tuple[int, int]], bounds: Mapping[TopicPartitionRef, tuple[int, int]]
    ) -> None:
        self.part = BackfillPart()
        self._ranges: dict[TopicPartitionRef, tuple[int, int]] = {}  # what is still to be read
        self._missing = missing
        self._bytes = 0
        self._over = False
        for place, (low, high) in bounds.items():
            begin, end = missing[place]
            if begin < low:
                self.part.lost.append(LostRange(place, begin, min(low, end)))
            begin = max(begin, min(low, end))
            if begin < min(end, high):
                self._ranges[place] = begin, min(end, high)
            self.part.nexts[place] = begin if place in self._ranges else end
        self._began = dict(self.part.nexts)
        self._unfinished = bool(self._ranges)

    @property
    def stands_still(self) -> bool:
        """Whether nothing at all came of it."""
        return self._unfinished and not self._over and not self.part.lost and self.part.nexts == self._began

    def read(self, consumer: Consumer, stop: threading.Event) -> None:
        """Read to the end of every place, or as much as one reading gives."""
        if not self._ranges:
            return
        reader = TopicReader(consumer, self._ranges, silence_s_max=None, on_error=self._on_error)
        until_s = time.monotonic() + READ_S_MAX
        while reader.unfinished and not self._over and not stop.is_set() and time.monotonic() < until_s:
            # One at a time: what librdkafka hands over must be in the part, or be read again.
            for message in reader.read(1, POLL_S):
                self._take(message)
        unfinished = set(reader.unfinished)
        self._unfinished = bool(unfinished)
        for place, at in reader.next_offsets.items():
            self.part.nexts[place] = at if place in unfinished else self._missing[place][1]

    def _take(self, message: Message) -> None:
        event = happening_of(message, place_of(message), message.offset() or 0)
        if event is not None:
            self.part.events.append(event)
            self._bytes += event.size_bytes
        self._over = len(self.part.events) >= EVENTS_MAX or self._bytes >= BYTES_MAX

    def _on_error(self, error: KafkaError) -> None:
        # What was deleted just now is found to be lost by the next reading.
        self._over = error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001
