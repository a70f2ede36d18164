"""Readers of everything that the service announces, as any `read_committed` consumer would hear it."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import TopicReader, offset_bounds, partitions_of
from headrace.schemas.codec import decode
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import DeadLetter, Ingested, Kind
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import DEAD_LETTERS, PartitionKey, ingested_topic
from tests.faults.acks import Place
from tests.faults.observed import ObservedAnnouncement, ObservedLetter, Partition, ReceivedMessages

OUTPUTS = (*(ingested_topic(kind).name for kind in Kind), DEAD_LETTERS.name)
QUIET_S_MAX = 60.0
SILENT_S_MAX = 30.0
"""A reader that hears nothing for so long, and is not at the end, gives up."""
ANSWER_S_MAX = 20.0
_POLL_S = 0.1
_REOPEN_S = 0.5
_MESSAGES_MAX = 500
_STOP_S_MAX = 15.0

Offsets = Mapping[Partition, int]


@dataclass(slots=True)
class Position:
    """How far partitions were read. A message that was taken already is never taken again."""

    next: dict[Partition, int]
    end: dict[Partition, int] = field(default_factory=dict)

    def is_new(self, message: Message) -> bool:
        """Whether a message, or the end of a partition, has not been met before; it is noted."""
        at, offset = _partition(message), message.offset()
        assert offset is not None
        if message.error() is not None:
            self.end[at] = max(offset, self.end.get(at, 0))
            return False
        if offset < self.next.get(at, 0):
            return False
        self.next[at] = offset + 1
        return True

    def short_of(self, ends: Offsets) -> list[Partition]:
        """Return the partitions that were not read up to these ends; markers of transactions are no messages."""
        return [at for at, end in ends.items() if max(self.next.get(at, 0), self.end.get(at, 0)) < end]


def offsets(settings: Settings, topics: Iterable[str]) -> tuple[dict[Partition, int], dict[Partition, int]]:
    """Return where each partition of the topics begins and ends.

    Raises KafkaException where Kafka does not answer in ANSWER_S_MAX seconds, or a topic is missing.
    """
    consumer = Consumer(client_config(settings, group_id="headrace-faults", enable_auto_commit=False))
    try:
        keys = [key for topic in topics for key in partitions_of(consumer, topic)]
        bounds = offset_bounds(consumer, keys, timeout_s=ANSWER_S_MAX)
    finally:
        consumer.close()
    begins = {Partition(*key): begin for key, (begin, _) in bounds.items()}
    return begins, {Partition(*key): end for key, (_, end) in bounds.items()}


def read_to_end(
    settings: Settings, topics: Iterable[str], take: Callable[[Message], None], since: Offsets | None = None
) -> dict[Partition, int]:
    """Hand each message up to the present end of the topics to `take`, each once; returns those ends.

    Raises KafkaException where a partition cannot be read to its end.
    """
    begins, ends = offsets(settings, topics)
    starts = {at: max(begin, (since or {}).get(at, 0)) for at, begin in begins.items()}
    consumer = _reader(settings, {})
    try:
        ranges: dict[PartitionKey, tuple[int, int]] = {at: (start, ends[at]) for at, start in starts.items()}
        # The client goes on by itself, as far as it can.
        for message in TopicReader(consumer, ranges, silence_s_max=SILENT_S_MAX, on_error=lambda _: None):
            take(message)
        return ends
    finally:
        consumer.close()


class Taken:
    """What has been heard so far; decodes announcements."""

    def __init__(self) -> None:
        self._announcements: list[ObservedAnnouncement] = []
        self._letters: list[ObservedLetter] = []
        self._unreadable: list[str] = []

    def take(self, message: Message) -> None:
        """Take down one message."""
        at = _partition(message)
        offset = message.offset()
        assert offset is not None
        place = Place(at.topic, at.partition, offset)
        try:
            if at.topic == DEAD_LETTERS.name:
                self._letters.append(_letter(place, decode(message.value(), DeadLetter)))
            else:
                self._announcements.append(ObservedAnnouncement(place, decode(message.value(), Ingested)))
        except RejectedError as rejected:
            self._unreadable.append(f"{at.topic}/{at.partition} offset {offset}: {rejected.reason}")

    def heard(self) -> ReceivedMessages:
        """Return all of it."""
        return ReceivedMessages(tuple(self._announcements), tuple(self._letters), tuple(self._unreadable))


def read_all(settings: Settings, since: Offsets | None = None) -> ReceivedMessages:
    """Return what a reader that comes only now hears. Raises what `read_to_end` raises."""
    taken = Taken()
    read_to_end(settings, OUTPUTS, taken.take, since)
    return taken.heard()


class Listener:
    """Listens from the beginning, in a thread of its own, and never gives up: brokers come and go."""

    def __init__(self, settings: Settings, since: Offsets | None = None) -> None:
        self._settings = settings
        self._taken = Taken()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        begins, _ = offsets(settings, OUTPUTS)
        self._position = Position({at: max(begin, (since or {}).get(at, 0)) for at, begin in begins.items()})
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def heard(self) -> ReceivedMessages:
        """Return what was heard so far."""
        with self._lock:
            return self._taken.heard()

    def wait_quiet(self, seconds: float = QUIET_S_MAX) -> None:
        """Wait until everything was heard that stands in the topics now; raises TimeoutError where it is not."""
        _, ends = offsets(self._settings, OUTPUTS)
        deadline = time.monotonic() + seconds
        while True:
            with self._lock:
                short = self._position.short_of(ends)
            if not short:
                return
            if not self._thread.is_alive():
                raise TimeoutError("the listener has ended before it heard everything")
            if time.monotonic() > deadline:
                at = short[0]
                raise TimeoutError(f"the listener did not get to the end of {at.topic}/{at.partition}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End; what was heard stays."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_STOP_S_MAX)

    def _listen(self) -> None:
        while not self._stop.is_set():
            consumer = _reader(self._settings, self._position.next)
            try:
                self._consume(consumer)
            except (KafkaException, RuntimeError):
                # A new consumer goes on where this one ended.
                self._stop.wait(_REOPEN_S)
            finally:
                consumer.close()

    def _consume(self, consumer: Consumer) -> None:
        while not self._stop.is_set():
            messages = consumer.consume(_MESSAGES_MAX, _POLL_S)
            with self._lock:
                for message in messages:
                    error = message.error()
                    if error is not None and error.code() != KafkaError._PARTITION_EOF:
                        if error.fatal():
                            raise KafkaException(error)
                    elif self._position.is_new(message):
                        self._taken.take(message)


def _reader(settings: Settings, starts: Offsets) -> Consumer:
    consumer = Consumer(
        client_config(
            settings,
            group_id="headrace-faults",
            isolation_level="read_committed",
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            fetch_wait_max_ms=50,
            fetch_queue_backoff_ms=5,
            reconnect_backoff_max_ms=1000,
        )
    )
    consumer.assign([TopicPartition(at.topic, at.partition, offset) for at, offset in starts.items()])
    return consumer


def _partition(message: Message) -> Partition:
    topic, partition = message.topic(), message.partition()
    assert topic is not None
    assert partition is not None
    return Partition(topic, partition)


def _letter(place: Place, event: DeadLetter) -> ObservedLetter:
    digest = None if event.value is None else sha256_hex(event.value)
    of = Place(event.topic, event.partition, event.offset)
    return ObservedLetter(
        place,
        event.event_id,
        event.code,
        of,
        digest,
        event.key,
        event.headers,
        event.reason,
        event.timestamp_us,
        event.rejected_at_us,
    )
