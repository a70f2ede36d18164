"""A `read_committed` consumer of all topics, and waiting until everything published has arrived."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Self

from confluent_kafka import Consumer, KafkaError, Message
from rich.console import Console
from rich.progress import Progress

from headrace.demo.acknowledgements import Acknowledgements, MessageOffset, RecordKey
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import kafka_failed
from headrace.runtime.progress import count_bars
from headrace.runtime.settings import Settings
from headrace.runtime.topic_reader import NO_END, TopicReader, offset_bounds, reading_consumer
from headrace.schemas.codec import decode
from headrace.schemas.events import DeadLetter, Event, Ingested, Kind, PerceivedFrame, PreprocessedFrame
from headrace.schemas.reject import RejectedError
from headrace.schemas.topics import PERCEIVED, PREPROCESSED, TOPICS, PartitionKey, input_topic

CONSUMERS = {"preprocessing": PREPROCESSED, "perception": PERCEIVED}
_NAMES: dict[type, str] = {topic.event: name for name, topic in CONSUMERS.items()}
_INPUTS = frozenset(input_topic(kind).name for kind in Kind)
_REQUEST_S_MAX = 10
_POLL_S = 0.1
_STOP_S_MAX = 10
_MESSAGES_MAX = 200
STILL_S_MAX = 30.0  # nothing new for so long means that the rest will not arrive
ARRIVE_S_MAX = 180.0


@dataclass(slots=True)
class Heard:
    """The messages received. Times are Kafka's timestamps, in milliseconds since 1970."""

    appended_at_ms: dict[MessageOffset, int] = field(default_factory=dict)
    announced_at_ms: dict[RecordKey, int] = field(default_factory=dict)
    announcements: Counter[RecordKey] = field(default_factory=Counter)
    event_ids: Counter[str] = field(default_factory=Counter)
    dead_letters: dict[MessageOffset, str] = field(default_factory=dict)
    frames: dict[str, set[str]] = field(default_factory=lambda: {name: set() for name in CONSUMERS})
    thumbnails: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def take(self, message: Message) -> None:
        """Record a message."""
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None and partition is not None and offset is not None  # noqa: PT018
        at_ms = message.timestamp()[1]
        if topic in _INPUTS:
            self.appended_at_ms[MessageOffset(topic, partition, offset)] = at_ms
            return
        try:
            event: Event = decode(message.value(), TOPICS[topic].event)
        except RejectedError as rejected:
            self.faults.append(f"a message on {topic} cannot be read: {rejected.reason}")
            return
        self._add(event, at_ms)

    def _add(self, event: Event, at_ms: int) -> None:
        match event:
            case Ingested():
                record = RecordKey(Kind(event.kind), event.digest)
                self.announcements[record] += 1
                self.event_ids[event.event_id] += 1
                self.announced_at_ms.setdefault(record, at_ms)
            case DeadLetter():
                self.dead_letters[MessageOffset(event.topic, event.partition, event.offset)] = event.code
            case PreprocessedFrame() | PerceivedFrame():
                name = _NAMES[type(event)]
                if event.error is not None:
                    self.faults.append(f"{name} could not use frame {event.digest}: {event.error}")
                    return
                self.frames[name].add(event.digest)
                if isinstance(event, PreprocessedFrame):
                    self.thumbnails[event.thumbnail_key] = event.thumbnail_sha256


class AnnouncementListener:
    """Consumes all topics in its own thread from now on; a context manager."""

    def __init__(self, settings: Settings) -> None:
        """Start at the current end of each topic.

        Raises:
            HeadraceError: Kafka does not answer.
        """
        self.heard = Heard()
        self._fault: KafkaError | None = None
        self._settings = settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)
        low_latency = {"fetch_queue_backoff_ms": 5, "fetch_wait_max_ms": 50}
        with ExitStack() as stack:
            consumer = stack.enter_context(
                reading_consumer(settings, "headrace-demo", **low_latency, auto_offset_reset="error")
            )
            ranges = {key: (end, NO_END) for key, end in _ends(consumer).items()}
            self._reader = TopicReader(consumer, ranges, silence_s_max=None, on_error=self._note_fault)
            self._resources = stack.pop_all()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(_STOP_S_MAX)
        self._resources.close()

    def check(self) -> None:
        """Check that the consumer works.

        Raises:
            HeadraceError: Kafka became unreachable or refused a request.
        """
        if self._fault is not None:
            raise kafka_failed(self._settings, self._fault)

    def _listen(self) -> None:
        while not self._stop.is_set() and self._fault is None:
            for message in self._reader.read(_MESSAGES_MAX, _POLL_S):
                self.heard.take(message)

    def _note_fault(self, error: KafkaError) -> None:
        if error.fatal() or not error.retriable():
            self._fault = error


def _ends(consumer: Consumer) -> dict[PartitionKey, int]:
    metadata = consumer.list_topics(timeout=_REQUEST_S_MAX).topics
    missing = sorted(TOPICS.keys() - metadata.keys())
    if missing:
        raise HeadraceError("topics_missing", f"there is no topic {missing[0]}", hint="run `headrace init`")
    keys = [(name, number) for name in TOPICS for number in metadata[name].partitions]
    return {key: end for key, (_, end) in offset_bounds(consumer, keys, timeout_s=_REQUEST_S_MAX).items()}


@dataclass(frozen=True, slots=True)
class Awaited:
    """What must be announced: new records, the frames among them, and dead letters."""

    records: frozenset[RecordKey]
    frames: frozenset[str]
    dead_letters: int

    def missing(self, heard: Heard) -> int:
        """Return how much of it has not been announced yet."""
        return (
            _absent(self.records, heard.announced_at_ms)
            + sum(_absent(self.frames, heard.frames[name]) for name in CONSUMERS)
            + max(0, self.dead_letters - len(heard.dead_letters))
        )


def awaited(acknowledgements: Acknowledgements, known_before: frozenset[RecordKey]) -> Awaited:
    """Return what must be announced after what the acknowledgements holds."""
    records = frozenset(acknowledgements.good.values()) - known_before
    frames = frozenset(record.digest for record in records if record.kind is Kind.FRAME)
    return Awaited(records, frames, len(acknowledgements.poison))


class DemoBars:
    """Progress bars on standard error, shown only on a terminal."""

    def __init__(self, progress: Progress, acknowledgements: Acknowledgements, heard: Heard) -> None:
        """Add the bars at zero."""
        self._progress = progress
        self._acknowledgements = acknowledgements
        self._heard = heard
        self._published = progress.add_task("published", total=None)
        self._announced = progress.add_task("announced", total=None)
        self._consumed = {name: progress.add_task(name, total=None) for name in CONSUMERS}

    def show(self, expected: Awaited | None = None) -> None:
        """Update the bars."""
        done = None if expected is None else self._acknowledgements.published
        records = None if expected is None else len(expected.records)
        frames = None if expected is None else len(expected.frames)
        self._progress.update(self._published, completed=self._acknowledgements.published, total=done)
        self._progress.update(self._announced, completed=len(self._heard.announced_at_ms), total=records)
        for name, task in self._consumed.items():
            self._progress.update(task, completed=len(self._heard.frames[name]), total=frames)


@contextmanager
def bars(console: Console, acknowledgements: Acknowledgements, heard: Heard) -> Iterator[DemoBars]:
    """Show progress bars in the context."""
    with count_bars(console, is_shown=console.is_terminal, description="{task.description:>13}") as progress:
        yield DemoBars(progress, acknowledgements, heard)


def wait_until_arrived(expected: Awaited, heard: Heard, check: Callable[[], None]) -> None:
    """Wait until nothing is missing, or nothing new came for `STILL_S_MAX` seconds; calls `check` repeatedly."""
    began = moved = time.monotonic()
    missing = expected.missing(heard)
    while missing:
        now = time.monotonic()
        if now > moved + STILL_S_MAX or now > began + ARRIVE_S_MAX:
            return
        time.sleep(_POLL_S)
        check()
        left = expected.missing(heard)
        moved = time.monotonic() if left < missing else moved
        missing = left


def _absent(expected: Iterable[object], received: Container[object]) -> int:
    # One by one, because the listener's thread adds to `received` meanwhile.
    return sum(1 for item in expected if item not in received)
