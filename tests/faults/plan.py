"""What is published while faults happen: a pure function of the seed, so that a seed replays a run."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import exp, log
from random import Random
from typing import assert_never

from headrace.demo.fault_injector import Build, Ingredients, wrong_digest
from headrace.producers import describe_clip, describe_frame
from headrace.producers.source import fields_of
from headrace.schemas.digest import canonical_body, record_id, sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Kind, Ldo, Origin
from headrace.schemas.limits import CODE_BYTES_MAX, INLINE_BYTES_MAX, KIB, LDO_BODY_BYTES_MAX
from headrace.schemas.topics import input_topic
from tests.faults.acks import Attempt, described
from tests.faults.bodies import IMAGES, filling, image, video
from tests.faults.poisons import poison

SITES = ("plant-north", "plant-south")
_BEGIN_US = 1_700_000_000_000_000
CODECS = ("gzip", "snappy", "lz4", "zstd")
_SOURCES = 6
_APART_US = 1000
_REMEMBERED = 200
_SMALL_BYTES_MAX = 64 * KIB
_MEDIUM_SHARE = 0.005
_KINDS = ((Kind.FRAME, 0.4), (Kind.CID, 0.25), (Kind.LDO, 0.2), (Kind.CLIP, 0.15))


@dataclass(frozen=True, slots=True)
class Mix:
    """What a plan consists of; shares are of all messages.

    One message in `large_every` is larger than a message of Kafka may be, so its body is staged. `foreign` is the share
    of events that somebody else's producers send, each with a codec and sources of its own. `names` begins the name of
    every source: workloads that run at the same time must not share one, or nobody could tell its order.
    """

    duplicates: float = 0.30
    poison: float = 0.02
    wrong_digests: float = 0.01
    bytes_max: int = 20_000_000
    large_every: int = 400
    foreign: float = 0.0
    names: str = ""


MIX = Mix()


@dataclass(frozen=True, slots=True)
class Planned:
    """One message: an event, or the value of one that can never be ingested. `large` means that it has to be staged.

    With `codec` it is sent by a producer that is not ours and compresses so.
    """

    attempt: Attempt
    site: str
    event: InputEvent | None
    value: bytes | None
    large: bool
    codec: str | None = None


@dataclass(frozen=True, slots=True)
class _Content:
    """What makes a body what it is; the body itself is made again each time, which is cheaper than to keep it."""

    kind: Kind
    number: int
    source: int
    size_bytes: int


def planned(seed: int, *, first: int = 0, mix: Mix = MIX) -> Iterator[Planned]:
    """Yield messages for ever, numbered from `first`; the number is also the sequence, so each source's own rises."""
    random = Random(f"{seed} {first}")
    seen: deque[_Content] = deque(maxlen=_REMEMBERED)
    number = first
    while True:
        drawn = random.random()
        if mix.bytes_max > INLINE_BYTES_MAX and (number - first) % mix.large_every == mix.large_every // 8:
            content = _large(number, random, mix)
            seen.append(content)
            yield _valid(seed, number, content, mix)
        elif drawn < mix.poison:
            yield _poisoned(seed, number, poison, random, mix)
        elif drawn < mix.poison + mix.wrong_digests:
            yield _poisoned(seed, number, wrong_digest, random, mix)
        else:
            again = bool(seen) and drawn < mix.poison + mix.wrong_digests + mix.duplicates
            content = _seen_elsewhere(random.choice(seen), random) if again else _content(number, random, mix)
            if not again:
                seen.append(content)
            yield _valid(seed, number, content, mix)
        number += 1


def _large(number: int, random: Random, mix: Mix) -> _Content:
    size_bytes = _log_uniform(random, INLINE_BYTES_MAX + 1, mix.bytes_max)
    return _Content(random.choice((Kind.FRAME, Kind.CLIP)), number, random.randrange(2), size_bytes)


def _content(number: int, random: Random, mix: Mix) -> _Content:
    kind = random.choices([known_kind for known_kind, _ in _KINDS], [share for _, share in _KINDS])[0]
    if random.random() < _MEDIUM_SHARE and mix.bytes_max > _SMALL_BYTES_MAX:
        size_bytes = _log_uniform(random, _SMALL_BYTES_MAX, min(mix.bytes_max, INLINE_BYTES_MAX))
    else:
        size_bytes = _log_uniform(random, 1, min(mix.bytes_max, _SMALL_BYTES_MAX))
    is_foreign = mix.foreign > 0 and random.random() < mix.foreign
    source = _SOURCES + random.randrange(len(CODECS)) if is_foreign else random.randrange(_SOURCES)
    return _Content(kind, number, source, size_bytes)


def _log_uniform(random: Random, low: int, high: int) -> int:
    return min(high, int(exp(random.uniform(log(low), log(high + 1)))))


def _seen_elsewhere(content: _Content, random: Random) -> _Content:
    """Return the same content for another source where its record does not name its source."""
    match content.kind:
        case Kind.FRAME | Kind.CLIP:
            of = 2 if content.size_bytes > INLINE_BYTES_MAX else _SOURCES
            return replace(content, source=(content.source + random.randrange(1, of)) % of)
        case Kind.CID | Kind.LDO:
            return content
        case _:
            assert_never(content.kind)


def _valid(seed: int, number: int, content: _Content, mix: Mix) -> Planned:
    large = content.size_bytes > INLINE_BYTES_MAX
    # What has to be staged has sources of its own: it may have to wait for the store, and nobody else should.
    group = "large" if large else "camera" if content.kind in {Kind.FRAME, Kind.CLIP} else "device"
    codec = CODECS[content.source - _SOURCES] if content.source >= _SOURCES else None
    origin = Origin(
        source_id=f"{mix.names}{codec or group}-{content.source}",
        site=SITES[content.source % 2],
        captured_at_us=_BEGIN_US + content.number * _APART_US + seed % _APART_US,
        sequence=number,
    )
    event = _event(content, origin, f"{seed}-{content.number}-".encode())
    match event:
        case Frame() | Clip():
            digest, size_bytes = event.sha256, event.size_bytes
        case Cid() | Ldo():
            body = canonical_body(event)
            digest, size_bytes = sha256_hex(body), len(body)
        case _:
            assert_never(event)
    attempt = Attempt(
        number=number,
        kind=content.kind,
        topic=input_topic(content.kind).name,
        source_id=origin.source_id,
        sequence=number,
        digest=digest,
        size_bytes=size_bytes,
        record_id=record_id(content.kind, digest),
        expect=None,
        says=described(event),
    )
    return Planned(attempt, origin.site, event, None, large, codec)


def _event(content: _Content, origin: Origin, name: bytes) -> InputEvent:
    size_bytes = content.size_bytes
    match content.kind:
        case Kind.CID:
            # Of a code of one character only the time makes a record of its own, which is enough.
            code = (name.decode() + "x" * CODE_BYTES_MAX)[: min(size_bytes, CODE_BYTES_MAX)]
            return Cid(**fields_of(origin), code=code)
        case Kind.LDO:
            text = filling(name, min(size_bytes, LDO_BODY_BYTES_MAX) // 2).hex().encode()[: LDO_BODY_BYTES_MAX - KIB]
            body = b'{"sensor_data":{"%s":"%s"},"context":{},"prediction":{"ok":true}}' % (name, text)
            return Ldo(**fields_of(origin), ldo_id=f"part-{content.number}", body=body)
        case Kind.FRAME:
            return describe_frame(image(IMAGES[content.number % len(IMAGES)], name, size_bytes), origin)
        case Kind.CLIP:
            return describe_clip(video(name, size_bytes), origin)
        case _:
            assert_never(content.kind)


def _poisoned(seed: int, number: int, build: Build, random: Random, mix: Mix) -> Planned:
    source = random.randrange(4)
    origin = Origin(
        source_id=f"{mix.names}poison-{source}",
        site=SITES[source % 2],
        captured_at_us=_BEGIN_US + number * _APART_US,
        sequence=number,
    )
    frame = describe_frame(image(IMAGES[number % len(IMAGES)], f"{seed}-{number}-".encode(), 300), origin)
    made = build(Ingredients(origin, frame, random))
    value = made.value or b""
    attempt = Attempt(
        number=number,
        kind=made.kind,
        topic=input_topic(made.kind).name,
        source_id=origin.source_id,
        sequence=number,
        digest=sha256_hex(value),
        size_bytes=len(value),
        record_id=None,
        expect=made.code,
    )
    return Planned(attempt, origin.site, None, made.value, large=False)
