"""What streams have missed and the ring has no more, read from Kafka. Everything here blocks."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from headrace.gateway.live.announcements import POLL_S, bounds_by, consumer_of, happening_of, place_of
from headrace.gateway.live.resume_token import TopicPartitionRef
from headrace.gateway.live.stream_event import StreamedEvent
from headrace.runtime.kafka import kafka_unreachable
from headrace.runtime.settings import Settings
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
        self._ends: dict[TopicPartitionRef, int] = {}  # of the places that are not read to their end
        self._bytes = 0
        self._over = False
        for place, (low, high) in bounds.items():
            begin, end = missing[place]
            if begin < low:
                self.part.lost.append(LostRange(place, begin, min(low, end)))
            begin = max(begin, min(low, end))
            if begin < min(end, high):
                self._ends[place] = end
            self.part.nexts[place] = begin if place in self._ends else end
        self._began = dict(self.part.nexts)

    @property
    def stands_still(self) -> bool:
        """Whether nothing at all came of it."""
        return bool(self._ends) and not self._over and not self.part.lost and self.part.nexts == self._began

    def read(self, consumer: Consumer, stop: threading.Event) -> None:
        """Read to the end of every place, or as much as one reading gives."""
        if not self._ends:
            return
        consumer.assign([TopicPartition(*place, self.part.nexts[place]) for place in self._ends])
        until_s = time.monotonic() + READ_S_MAX
        while self._ends and not self._over and not stop.is_set() and time.monotonic() < until_s:
            # One at a time: what librdkafka hands over must be in the part, or be read again.
            message = consumer.poll(POLL_S)
            if message is not None:
                self._take(message, place_of(message))

    def _take(self, message: Message, place: TopicPartitionRef) -> None:
        if (error := message.error()) is not None:
            self._note(error, place)
            return
        if place not in self._ends:
            return
        offset, end = message.offset() or 0, self._ends[place]
        if offset < end and (found := happening_of(message, place, offset)) is not None:
            self.part.events.append(found)
            self._bytes += found.size_bytes
        self.part.nexts[place] = min(offset + 1, end)
        if offset + 1 >= end:
            del self._ends[place]
        self._over = len(self.part.events) >= EVENTS_MAX or self._bytes >= BYTES_MAX

    def _note(self, error: KafkaError, place: TopicPartitionRef) -> None:
        if error.code() == KafkaError._PARTITION_EOF and place in self._ends:  # noqa: SLF001
            self.part.nexts[place] = self._ends.pop(place)
        # What was deleted just now is found to be lost by the next reading.
        self._over = error.fatal() or error.code() == KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001
