"""The events, as frozen values.

Times are integers: microseconds since 1970, UTC. Digests are 64 lower-case hexadecimal digits of SHA-256.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never


class Kind(StrEnum):
    """The kinds of input events."""

    CID = "cid"
    FRAME = "frame"
    CLIP = "clip"
    LDO = "ldo"


def singular(name: str) -> str:
    """Return the name of a kind without the plural's s: people write both."""
    return name.removesuffix("s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The source, site, capture time and sequence number of an event."""

    source_id: str
    site: str
    captured_at_us: int
    sequence: int


class TimeFrom(StrEnum):
    """Where a record's capture time comes from: its attribute `captured_at_from`."""

    SENDER = "sender"
    EXIF = "exif"
    FILE = "file"  # its modification time
    RECEIVED = "received"  # when it was received, because nothing better is known


@dataclass(frozen=True, slots=True, kw_only=True)
class Cid(Origin):
    """One scan of a component's identifier."""

    code: str
    symbology: str = "QRCode"
    seen_in: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame(Origin):
    """One still image: inline in `body`, or staged in the blob store under `claim`."""

    sha256: str
    media_type: str
    width: int
    height: int
    size_bytes: int
    body: bytes | None = None
    claim: str | None = None
    attributes: bytes = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip(Origin):
    """A short video: inline in `body`, or staged in the blob store under `claim`."""

    sha256: str
    media_type: str = "video/mp4"
    duration_us: int
    size_bytes: int
    body: bytes | None = None
    claim: str | None = None
    about: str | None = None
    attributes: bytes = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ldo(Origin):
    """A labelled data object; `body` is a JSON object with sensor_data, context and prediction."""

    ldo_id: str
    body: bytes
    clip_sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingested(Origin):
    """The announcement: the bytes are in the store and the record is in the catalog."""

    event_id: str
    record_id: str
    kind: str
    digest: str
    ingested_at_us: int
    media_type: str
    size_bytes: int
    store_key: str
    store_offset: int | None = None
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None
    ldo_id: str | None = None
    code: str | None = None
    about: str | None = None
    attributes: bytes = b"{}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that can never be ingested. `headers` is a JSON array of [name, base64 value] pairs."""

    event_id: str
    code: str
    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_us: int
    key: bytes | None
    value: bytes | None
    headers: bytes
    rejected_at_us: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessedFrame(Origin):
    """The measurements of preprocessing in a frame; `error` is the reason if it could not be decoded."""

    event_id: str
    record_id: str
    digest: str
    width: int
    height: int
    sharpness: float
    brightness: float
    dark_share: float
    bright_share: float
    perceptual_hash: str
    thumbnail_sha256: str
    thumbnail_key: str
    thumbnail_width: int
    thumbnail_height: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Region:
    """A changed rectangle in pixels of the frame; `score` is the changed share of it."""

    x: int
    y: int
    width: int
    height: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceivedFrame(Origin):
    """The changes since the previous frame of the same source."""

    event_id: str
    record_id: str
    digest: str
    previous_digest: str | None
    score: float
    regions: tuple[Region, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """A request to capture a camera's stream; `url` has neither credentials nor a query."""

    source_id: str
    site: str
    request_id: str
    requested_at_us: int
    url: str
    mode: str
    fps: float
    duration_s: float
    frame_count: int


InputEvent: TypeAlias = Cid | Frame | Clip | Ldo
Event: TypeAlias = InputEvent | Ingested | DeadLetter | PreprocessedFrame | PerceivedFrame | CaptureRequest


def kind_of(event: InputEvent) -> Kind:
    """Return the kind of an input event."""
    match event:
        case Cid():
            return Kind.CID
        case Frame():
            return Kind.FRAME
        case Clip():
            return Kind.CLIP
        case Ldo():
            return Kind.LDO
        case _:
            assert_never(event)
