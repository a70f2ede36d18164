"""A broken device: publishes one poison message for every hundred good ones, and some with a wrong digest."""

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
_POLL_S = 0.2
_FLUSH_S_MAX = 30


class FaultInjector:
    """Publishes poison messages in proportion to the ledger, until it is stopped."""

    def __init__(self, settings: Settings, ledger: AckLedger, sources: Sources, *, site: str, seed: int) -> None:
        """Prepare; poison frames are made from a frame that `sources` published."""
        self._ledger = ledger
        self._sources = sources
        self._site = site
        self._random = Random(seed)  # noqa: S311 - a demonstration, not a secret
        self._settings = settings
        self._poisons = self._digests = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fault-injector", daemon=True)

    def start(self) -> None:
        """Start publishing."""
        self._thread.start()

    def stop(self) -> None:
        """Publish what is due and stop; may be repeated."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        bytes_max = max(topic.message_bytes_max for topic in TOPICS.values())
        # A producer that outlives this call would keep trying to reach a stopped broker.
        producer = Producer(client_config(self._settings, enable_idempotence=True, message_max_bytes=bytes_max))
        while not self._stop.wait(_POLL_S):
            self._catch_up(producer)
        self._catch_up(producer)
        producer.flush(_FLUSH_S_MAX)

    def _catch_up(self, producer: Producer) -> None:
        if self._sources.sample is None:  # poison frames are made from a good one
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
            self._ledger.poison_failed(error.str() if error else "Kafka did not report the offset of a message")
            return
        self._ledger.poisoned(MessageOffset(topic, partition, offset), code)
