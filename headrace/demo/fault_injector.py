"""A broken device: publishes one poison message for every hundred good ones, and some with a wrong digest.

A poison message can never be ingested, and its dead letter has the expected code. The producers of Headrace refuse such
messages, so they are published to Kafka directly.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from confluent_kafka import KafkaError, Message, Producer

from headrace.demo.acknowledgements import Acknowledgements, MessageOffset
from headrace.demo.sources import Sources
from headrace.producers.source import fields_of, unix_us
from headrace.runtime.kafka import client_config
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, Kind, Ldo, Origin
from headrace.schemas.limits import LDO_BODY_BYTES_MAX
from headrace.schemas.reject import RejectCode
from headrace.schemas.topics import TOPICS, input_topic

GOOD_PER_POISON = 100  # 1 %
GOOD_PER_WRONG_DIGEST = 250
_SOURCE_ID = "old-device"
_POLL_S = 0.2
_FLUSH_S_MAX = 30
_LDO_BODY = b'{"sensor_data":{},"context":{},"prediction":{}}'
_9000_US = 221_845_392_000_000_000
_NEVER_PUBLISHED_ID = (0x7FFFFFFF).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Poison:
    """A poison message: the kind of its topic, its value, and the expected reject code."""

    code: RejectCode
    kind: Kind
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What a poison message is built from: an origin, a good frame, and randomness."""

    origin: Origin
    frame: Frame
    random: Random


Build = Callable[[Ingredients], Poison]


def empty_value(_: Ingredients) -> Poison:
    """Return a message without a value."""
    return Poison(RejectCode.EMPTY_VALUE, Kind.FRAME, None)


def not_framed(parts: Ingredients) -> Poison:
    """Return bytes in another format."""
    return Poison(RejectCode.NOT_FRAMED, Kind.CID, b"{" + parts.random.randbytes(40))


def unknown_schema(parts: Ingredients) -> Poison:
    """Return a message with an unknown schema id."""
    return Poison(RejectCode.UNKNOWN_SCHEMA, Kind.LDO, b"\x00" + _NEVER_PUBLISHED_ID + parts.random.randbytes(40))


def undecodable(parts: Ingredients) -> Poison:
    """Return a truncated frame."""
    whole = encode(parts.frame)
    return Poison(RejectCode.UNDECODABLE, Kind.FRAME, whole[: len(whole) // 2])


def missing_field(parts: Ingredients) -> Poison:
    """Return an LDO without its prediction."""
    body = b'{"sensor_data":{},"context":{}}'
    return Poison(RejectCode.MISSING_FIELD, Kind.LDO, encode(replace(_ldo(parts), body=body)))


def absurd_time(parts: Ingredients) -> Poison:
    """Return a scan from the year 9000, as by a wrong clock."""
    return Poison(RejectCode.ABSURD_TIME, Kind.CID, encode(replace(_cid(parts), captured_at_us=_9000_US)))


def not_an_image(parts: Ingredients) -> Poison:
    """Return a frame whose body is text."""
    return Poison(RejectCode.NOT_AN_IMAGE, Kind.FRAME, encode(_with_body(parts.frame, b"no image " * 40)))


def too_large(parts: Ingredients) -> Poison:
    """Return an LDO over the size limit."""
    body = _LDO_BODY.ljust(LDO_BODY_BYTES_MAX + 1)
    return Poison(RejectCode.TOO_LARGE, Kind.LDO, encode(replace(_ldo(parts), body=body)))


def not_a_video(parts: Ingredients) -> Poison:
    """Return a clip whose body is an image."""
    body = parts.frame.body or b""
    clip = Clip(
        **fields_of(parts.origin), sha256=sha256_hex(body), duration_us=5_000_000, size_bytes=len(body), body=body
    )
    return Poison(RejectCode.NOT_A_VIDEO, Kind.CLIP, encode(clip))


def wrong_event(parts: Ingredients) -> Poison:
    """Return a scan on the frames topic."""
    return Poison(RejectCode.WRONG_EVENT, Kind.FRAME, encode(_cid(parts)))


def wrong_digest(parts: Ingredients) -> Poison:
    """Return a frame whose declared digest does not match its body."""
    return Poison(
        RejectCode.DIGEST_MISMATCH, Kind.FRAME, encode(replace(parts.frame, sha256=sha256_hex(b"another frame")))
    )


POISONS: tuple[Build, ...] = (
    not_framed,
    unknown_schema,
    empty_value,
    missing_field,
    not_an_image,
    absurd_time,
    too_large,
    undecodable,
    not_a_video,
    wrong_event,
)


def _cid(parts: Ingredients) -> Cid:
    return Cid(**fields_of(parts.origin), code=f"PART-X-{parts.random.randrange(1_000_000):06d}")


def _ldo(parts: Ingredients) -> Ldo:
    return Ldo(**fields_of(parts.origin), ldo_id=f"broken-{parts.random.randrange(1_000_000)}", body=_LDO_BODY)


def _with_body(frame: Frame, body: bytes) -> Frame:
    return replace(frame, body=body, sha256=sha256_hex(body), size_bytes=len(body))


class FaultInjector:
    """Publishes poison messages in proportion to the acknowledgements, until it is stopped."""

    def __init__(
        self, settings: Settings, acknowledgements: Acknowledgements, sources: Sources, *, site: str, seed: int
    ) -> None:
        """Prepare; poison frames are made from a frame that `sources` published."""
        self._acknowledgements = acknowledgements
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
        good = self._acknowledgements.published
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
        self._acknowledgements.expect_poison()
        producer.produce(
            input_topic(poison.kind).name,
            value=poison.value,
            key=_SOURCE_ID.encode(),
            on_delivery=partial(self._settle, poison.code),
        )

    def _settle(self, code: RejectCode, error: KafkaError | None, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if error is not None or topic is None or partition is None or offset is None:
            self._acknowledgements.poison_failed(
                error.str() if error else "Kafka did not report the offset of a message"
            )
            return
        self._acknowledgements.poisoned(MessageOffset(topic, partition, offset), code)
