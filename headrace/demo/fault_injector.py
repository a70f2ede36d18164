"""Somebody's broken device: a poisoned message for every hundred good ones, and now and then a wrong digest."""

import threading
from functools import partial
from random import Random

from confluent_kafka import KafkaError, Message, Producer

from headrace.demo.ledger import AckLedger, MessageOffset
from headrace.demo.poison import POISONS, Build, Ingredients, wrong_digest
from headrace.demo.sources import Sources
from headrace.producers.source import unix_us
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.events import Origin
from headrace.schemas.reject import RejectCode
from headrace.schemas.topics import TOPICS, input_topic

GOOD_PER_POISON = 100  # 1 %
GOOD_PER_WRONG_DIGEST = 250
_SOURCE_ID = "old-device"
_LOOK_S = 0.2
_FLUSH_S_MAX = 30


class FaultInjector:
    """Publishes poison in proportion to what the ledger holds, until it is told to stop."""

    def __init__(self, settings: Settings, ledger: AckLedger, sources: Sources, *, site: str, seed: int) -> None:
        """Prepare; it takes a frame that `sources` published as a model for its own."""
        self._ledger = ledger
        self._sources = sources
        self._site = site
        self._random = Random(seed)  # noqa: S311 - a demonstration, not a secret
        self._settings = settings
        self._poisons = self._digests = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="vandal", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what is still due, and end; may be repeated."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        bytes_max = max(topic.message_bytes_max for topic in TOPICS.values())
        # It lives no longer than this call: a producer that is kept goes on looking for a broker that is gone.
        producer = Producer(client_config(self._settings, enable_idempotence=True, message_max_bytes=bytes_max))
        while not self._stop.wait(_LOOK_S):
            self._catch_up(producer)
        self._catch_up(producer)
        producer.flush(_FLUSH_S_MAX)

    def _catch_up(self, producer: Producer) -> None:
        if self._sources.sample is None:  # its own frames are made from somebody else's
            return
        good = self._ledger.published
        while self._poisons < good // GOOD_PER_POISON:
            self._send(producer, POISONS[self._poisons % len(POISONS)])
            self._poisons += 1
        while self._digests < good // GOOD_PER_WRONG_DIGEST:
            self._send(producer, wrong_digest)
            self._digests += 1
        producer.poll(0)

    def _send(self, producer: Producer, build: Build) -> None:
        frame = self._sources.sample
        assert frame is not None
        sent = self._poisons + self._digests
        origin = Origin(source_id=_SOURCE_ID, site=self._site, captured_at_us=unix_us(), sequence=sent)
        poison = build(Ingredients(origin, frame, self._random))
        self._ledger.expect_poison()
        producer.produce(
            input_topic(poison.kind).name,
            value=poison.value,
            key=_SOURCE_ID.encode(),
            on_delivery=partial(self._settle, poison.code),
        )

    def _settle(self, code: RejectCode, error: KafkaError | None, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if error is not None or topic is None or partition is None or offset is None:
            self._ledger.poison_failed(error.str() if error else "Kafka did not say where a message stands")
            return
        self._ledger.poisoned(MessageOffset(topic, partition, offset), code)
