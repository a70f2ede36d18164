"""Sources that go on publishing while faults happen, and take down what they attempted and what was acknowledged."""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from queue import Empty, Full, Queue

from confluent_kafka import KafkaError, Message, Producer

from headrace.producers import Delivery, NotDeliveredError, Publisher
from headrace.runtime.errors import HeadraceError
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.topics import TOPICS
from headrace.store.errors import StoreRefusedError, StoreUnavailableError
from tests.faults.acks import AckFile, Acks, Place, read_acks
from tests.faults.plan import MIX, Mix, Planned, planned

__all__ = ["MIX", "Mix", "Planned", "Workload", "planned", "publish_all"]

DELIVERY_S_MAX = 300.0
"""How long a message is tried for; longer than any fault lasts, so that what was given up was given up for a reason."""
_BEHIND_S_MAX = 1.0
_SYNC_S = 1.0
_STAGE_AGAIN_S = 0.5
_POLL_S = 0.05
_LARGE_WAITING_MAX = 8


class Publishing:
    """Publishes planned messages, each under the name of its own kind of client; may be closed more than once."""

    def __init__(self, settings: Settings, acks: Path, *, delivery_s_max: float = DELIVERY_S_MAX) -> None:
        """Connect; raises HeadraceError where Kafka is not there."""
        self._delivery_s_max = delivery_s_max
        self._publisher = Publisher.from_settings(settings, delivery_s_max=delivery_s_max)
        self._settings = settings
        # Poison is nothing that our own producer would send; by codec.
        self._raw: dict[str, Producer] = {}
        self._file = AckFile(acks)
        self._path = acks
        self._counted = threading.Lock()
        self.attempted = 0
        self.acked = 0
        self.given_up: list[str] = []

    def publish(self, message: Planned) -> None:
        """Hand a message over; one that has to be staged is tried again as long as the store is away."""
        self._file.attempt(message.attempt)
        with self._counted:
            self.attempted += 1
        number = message.attempt.number
        if message.event is None or message.codec is not None:
            self._produce(message, self._producer(message.codec or "none"))
        elif (delivery := self._handed_over(message)) is not None:
            delivery.add_done_callback(partial(self._settle, number))

    def poll(self) -> None:
        """Take in what other producers' messages became, and make durable what was taken down."""
        for producer in self._raw.values():
            producer.poll(0)
        self._file.sync()

    def close(self) -> Acks:
        """Wait for every delivery, and return everything that was taken down."""
        self._publisher.close(self._delivery_s_max + 1)
        for producer in self._raw.values():
            producer.flush(self._delivery_s_max + 1)
        self._file.close()
        return read_acks(self._path)

    def _handed_over(self, message: Planned) -> Delivery | None:
        assert message.event is not None
        deadline = time.monotonic() + self._delivery_s_max
        while True:
            try:
                return self._publisher.publish(message.event)
            except (StoreUnavailableError, StoreRefusedError) as error:
                if time.monotonic() > deadline:
                    self._give_up(message.attempt.number, error)
                    return None
                time.sleep(_STAGE_AGAIN_S)

    def _producer(self, codec: str) -> Producer:
        if codec not in self._raw:
            self._raw[codec] = Producer(
                client_config(
                    self._settings,
                    enable_idempotence=True,
                    partitioner="murmur2",
                    compression_type=codec,
                    message_max_bytes=max(topic.message_bytes_max for topic in TOPICS.values()),
                    delivery_timeout_ms=int(self._delivery_s_max * 1000),
                )
            )
        return self._raw[codec]

    def _produce(self, message: Planned, producer: Producer) -> None:
        value = message.value if message.event is None else encode(message.event)
        while True:
            try:
                producer.produce(
                    message.attempt.topic,
                    value=value,
                    key=message.attempt.source_id.encode(),
                    on_delivery=partial(self._told, message.attempt.number),
                )
            except BufferError:
                producer.poll(_POLL_S)
            else:
                producer.poll(0)
                return

    def _settle(self, number: int, delivery: Delivery) -> None:
        try:
            at = delivery.result(0)
        except NotDeliveredError as error:
            self._give_up(number, error)
        else:
            self._ack(number, Place(at.topic, at.partition, at.offset))

    def _told(self, number: int, error: KafkaError | None, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if error is not None or topic is None or partition is None or offset is None:
            self._give_up(number, error)
        else:
            self._ack(number, Place(topic, partition, offset))

    def _ack(self, number: int, place: Place) -> None:
        self._file.ack(number, place)
        with self._counted:
            self.acked += 1

    def _give_up(self, number: int, error: object) -> None:
        with self._counted:
            self.given_up.append(f"{number}: {error}")


class Workload:
    """Publishes a plan at a steady rate, in threads of its own, until it is stopped.

    Valid events go through our own Publisher; poison and wrong digests through a client that asks no questions.
    """

    def __init__(
        self, settings: Settings, acks: Path, seed: int, *, rate_hz: float, first: int = 0, mix: Mix = MIX
    ) -> None:
        """Prepare; `acks` is the file that everything is taken down in, `first` the number of the first message."""
        self._settings = settings
        self._acks = acks
        self._plan = planned(seed, first=first, mix=mix)
        self._apart_s = 1 / rate_hz
        self._stop = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._large: Queue[Planned] = Queue(_LARGE_WAITING_MAX)
        self._faults: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Connect and begin.

        Raises:
            HeadraceError: Kafka is not there.
        """
        self._publishing = Publishing(self._settings, self._acks)
        for work in (self._work, self._work_large):
            self._threads.append(threading.Thread(target=self._guarded, args=(work,), name="workload", daemon=True))
            self._threads[-1].start()

    def pause(self) -> None:
        """Publish nothing for now; what is on its way goes on."""
        self._going.clear()

    def resume(self) -> None:
        """Go on."""
        self._going.set()

    def stop(self) -> Acks:
        """Plan no more, wait until every delivery has its result, and return what was taken down.

        Raises:
            HeadraceError: a thread ended by a fault of its own, so the workload was not what it should have been.
        """
        self._stop.set()
        self._going.set()
        for thread in self._threads:
            thread.join()
        acks = self._publishing.close()
        if self._faults:
            raise HeadraceError("workload_failed", f"the workload ended by itself: {self._faults[0]!r}")
        return acks

    @property
    def attempted(self) -> int:
        """How many messages were handed over until now."""
        return self._publishing.attempted

    @property
    def acked(self) -> int:
        """How many of them Kafka has acknowledged."""
        return self._publishing.acked

    @property
    def given_up(self) -> tuple[str, ...]:
        """What was not acknowledged in its time, and why."""
        return tuple(self._publishing.given_up)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - it is raised again where somebody can see it
            self._faults.append(error)

    def _work(self) -> None:
        due = synced = time.monotonic()
        for message in self._plan:
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            self._going.wait()
            self._hand_on(message)
            now = time.monotonic()
            due = max(due + self._apart_s, now - _BEHIND_S_MAX)
            if now - synced > _SYNC_S:
                self._publishing.poll()
                synced = now

    def _hand_on(self, message: Planned) -> None:
        if not message.large:
            self._publishing.publish(message)
            return
        # Where the store is away for long, what would have to be staged is left out: nothing else should wait for it.
        with suppress(Full):
            self._large.put_nowait(message)

    def _work_large(self) -> None:
        while not (self._stop.is_set() and self._large.empty()):
            with suppress(Empty):
                self._publishing.publish(self._large.get(timeout=_POLL_S))


def publish_all(settings: Settings, acks: Path, messages: Iterable[Planned], *, count: int, rate_hz: float) -> Acks:
    """Publish so many messages at a steady rate, large ones in their turn, and wait until each has its result."""
    publishing = Publishing(settings, acks)
    began = time.monotonic()
    for index, message in enumerate(islice(messages, count)):
        publishing.publish(message)
        time.sleep(max(0.0, began + (index + 1) / rate_hz - time.monotonic()))
    return publishing.close()
