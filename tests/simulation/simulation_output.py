"""The output topics with Kafka's transactions, and librdkafka's clients in front of them, for the relay's real code.

Modelled: epochs that fence, transactions left open, aborted by the next `init` or by Kafka after a while, a commit
whose request is lost, whose answer is lost, or which arrives late; and readers that stop where a transaction is open.
Sources: KIP-98; Kafka's "Exactly Once Delivery and Transactional Messaging" design.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID
from zlib import crc32

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import ConfigEntry, ConfigResource

from headrace.streams.relay.announcement import OUTPUT_TOPICS
from headrace.streams.relay.outbox_publisher import TRANSACTION_S_MAX
from tests.simulation.simulation_faults import SimulationStep, Weather
from tests.simulation.simulation_loop import this_process

PARTITIONS = 2
PLACES = [(topic, partition) for topic in OUTPUT_TOPICS for partition in range(PARTITIONS)]
TIMED_OUT = KafkaException(KafkaError(KafkaError._TIMED_OUT))
FENCED = KafkaException(KafkaError(KafkaError._FENCED))


@dataclass(eq=False)
class Transaction:
    """What becomes of its messages is decided once."""

    state: str = "open"
    places: set[tuple[str, int]] = field(default_factory=set)


@dataclass(frozen=True)
class Entry:
    """A message of a partition, or the marker that ends a transaction there."""

    transaction: Transaction
    headers: list[tuple[str, bytes]] | None


class Output:
    """The broker."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self._epochs: Counter[str] = Counter()
        self._open: dict[str, Transaction] = {}
        self.logs: dict[tuple[str, int], list[Entry]] = {place: [] for place in PLACES}

    def init(self, producer: str) -> int:
        self._end(producer, "aborted")
        self._epochs[producer] += 1
        return self._epochs[producer]

    def send(self, producer: str, epoch: int, place: tuple[str, int], headers: list[tuple[str, bytes]]) -> int:
        self._check(producer, epoch)
        if producer not in self._open:
            self._open[producer] = started = Transaction()
            self._weather.loop.call_later(TRANSACTION_S_MAX, self._expire, producer, started)
        self._open[producer].places.add(place)
        self.logs[place].append(Entry(self._open[producer], headers))
        return len(self.logs[place]) - 1

    def end(self, producer: str, epoch: int) -> None:
        self._check(producer, epoch)
        self._end(producer, "committed")

    def say(self, topic: str, event: UUID) -> None:
        """Let somebody else write a message of its own."""
        place = topic, 0
        alone = Transaction(places={place})
        self.logs[place].append(Entry(alone, [("ce_id", str(event).encode())]))
        self._decide(alone, "committed")

    def announced(self) -> list[str]:
        """The event ids that a `read_committed` reader sees in the end."""
        return [
            dict(entry.headers)["ce_id"].decode()
            for log in self.logs.values()
            for entry in log
            if entry.headers and entry.transaction.state == "committed"
        ]

    def stable_end(self, place: tuple[str, int]) -> int:
        log = self.logs[place]
        return next((at for at, entry in enumerate(log) if entry.transaction.state == "open"), len(log))

    def _check(self, producer: str, epoch: int) -> None:
        if epoch != self._epochs[producer]:
            raise FENCED

    def _expire(self, producer: str, transaction: Transaction) -> None:
        if self._open.get(producer) is transaction:
            self._weather.note("Kafka aborts a transaction that was left open")
            self._end(producer, "aborted")
            self._epochs[producer] += 1

    def _end(self, producer: str, state: str) -> None:
        transaction = self._open.pop(producer, None)
        if transaction is not None:
            self._decide(transaction, state)

    def _decide(self, transaction: Transaction, state: str) -> None:
        transaction.state = state
        for place in sorted(transaction.places):
            self.logs[place].append(Entry(transaction, None))
        if state == "committed":
            ids = self.announced()
            twice = {each for each in ids if ids.count(each) > 1}
            self._weather.hold("I3", f"announced twice: {sorted(twice)}", holds=not twice)


@dataclass(frozen=True)
class Told:
    """librdkafka's message."""

    place: tuple[str, int]
    at: int
    header_pairs: list[tuple[str, bytes]] | None = None
    fault: KafkaError | None = None

    def topic(self) -> str:
        return self.place[0]

    def partition(self) -> int:
        return self.place[1]

    def offset(self) -> int:
        return self.at

    def headers(self) -> list[tuple[str, bytes]] | None:
        return self.header_pairs

    def error(self) -> KafkaError | None:
        return self.fault


class SimulatedProducer:
    """librdkafka's transactional producer: messages go out when the transaction is committed."""

    def __init__(self, weather: Weather, output: Output, config: Mapping[str, Any]) -> None:
        self._weather = weather
        self._output = output
        self._id: str = config["transactional.id"]
        self._epoch = -1
        self._waiting: list[tuple[tuple[str, int], list[tuple[str, bytes]], Callable[..., None]]] = []

    def init_transactions(self, _timeout: float) -> None:
        self._epoch = self._weather.step_now(SimulationStep.INIT, lambda: self._output.init(self._id), away=TIMED_OUT)

    def begin_transaction(self) -> None:
        self._waiting = []

    def produce(
        self, topic: str, _value: bytes, key: bytes, *, on_delivery: Callable[..., None], headers: list[Any]
    ) -> None:
        self._waiting.append(((topic, crc32(key) % PARTITIONS), headers, on_delivery))

    def commit_transaction(self, _timeout: float) -> None:
        for place, headers, on_delivery in self._waiting:
            at = self._weather.step_now(
                SimulationStep.SEND,
                lambda place=place, headers=headers: self._output.send(self._id, self._epoch, place, headers),  # type: ignore[misc]
                away=TIMED_OUT,
            )
            on_delivery(None, Told(place, at))
        self._weather.step_now(SimulationStep.END, lambda: self._output.end(self._id, self._epoch), away=TIMED_OUT)

    def purge(self) -> None:
        self._waiting = []

    def flush(self, _timeout: float) -> int:
        return 0


class SimulatedConsumer:
    """librdkafka's consumer, `read_committed`, with a note where a partition ends."""

    def __init__(self, weather: Weather, output: Output, _config: Mapping[str, Any]) -> None:
        self._weather = weather
        self._output = output
        self._positions: dict[tuple[str, int], int] = {}
        self._ended: set[tuple[str, int]] = set()

    def list_topics(self, *, timeout: float) -> "SimulatedConsumer":
        assert timeout
        return self

    @property
    def topics(self) -> dict[str, Any]:
        return {topic: _Topic(dict.fromkeys(range(PARTITIONS))) for topic in OUTPUT_TOPICS}

    def assign(self, places: list[TopicPartition]) -> None:
        self._positions = {(place.topic, place.partition): place.offset for place in places}

    def consume(self, upto: int, _timeout: float) -> list[Told]:
        return self._weather.step_now(SimulationStep.TAIL, lambda: self._next(min(upto, 3)), away=TIMED_OUT)

    def close(self) -> None:
        self._positions = {}

    def _next(self, upto: int) -> list[Told]:
        reports: list[Told] = []
        for place, position in self._positions.items():
            end = self._output.stable_end(place)
            for at in range(position, end):
                if len(reports) == upto:
                    return reports
                entry = self._output.logs[place][at]
                self._positions[place] = at + 1
                if entry.headers is not None and entry.transaction.state == "committed":
                    reports.append(Told(place, at, entry.headers))
            if place not in self._ended and len(reports) < upto:
                self._ended.add(place)
                reports.append(Told(place, self._positions[place], fault=KafkaError(KafkaError._PARTITION_EOF)))
        return reports


@dataclass(frozen=True)
class _Topic:
    partitions: dict[int, None]


class SimulatedAdmin:
    """Answers where partitions begin and end."""

    def __init__(self, output: Output, _config: Mapping[str, Any]) -> None:
        self._output = output

    def list_offsets(self, asked: dict[TopicPartition, Any], **_options: Any) -> dict[TopicPartition, "_Answer"]:
        this_process().check()
        return {
            place: _Answer(0 if "earliest" in _name(spec) else len(self._output.logs[place.topic, place.partition]))
            for place, spec in asked.items()
        }

    def describe_configs(self, asked: list[ConfigResource], **_options: Any) -> dict[ConfigResource, "_Limits"]:
        return {resource: _Limits(OUTPUT_TOPICS[resource.name].message_bytes_max) for resource in asked}


@dataclass(frozen=True)
class _Limits:
    message_bytes_max: int

    def result(self, _timeout: float) -> dict[str, ConfigEntry]:
        return {"max.message.bytes": ConfigEntry("max.message.bytes", str(self.message_bytes_max))}


@dataclass(frozen=True)
class _Answer:
    offset: int

    def result(self) -> "_Answer":
        return self


def _name(spec: Any) -> str:
    return type(spec).__name__.lower()
