"""Good events of every kind, as small as they can be, and the messages that carry them."""

import struct
import zlib
from typing import Any

import orjson

from headrace.schemas.codec import encode
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Kind, Ldo, kind_of
from headrace.schemas.topics import input_topic
from headrace.streams.core.delivery import ConsumedMessage

NOW_US = 1_790_000_000_000_000
ORIGIN: dict[str, Any] = {"source_id": "camera-1", "site": "plant", "captured_at_us": NOW_US, "sequence": 7}


def png(width: int = 4, height: int = 3, *, shade: int = 0, padding_bytes: int = 0) -> bytes:
    """A picture of one shade of grey; `padding_bytes` more of them in a chunk that nobody reads."""
    rows = b"".join(b"\0" + bytes([shade % 256]) * width for _ in range(height))
    parts = [
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        _chunk(b"tEXt", b"shade\0" + str(shade).encode()),
        _chunk(b"IDAT", zlib.compress(rows)),
    ]
    if padding_bytes:
        parts.append(_chunk(b"prIv", bytes(padding_bytes)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + _chunk(b"IEND", b"")


def mp4(*, duration_ms: int = 5000, filler: bytes = b"\0" * 64) -> bytes:
    """A movie with a header, a track of 4 by 2 pixels and media data."""
    header = bytes(12) + struct.pack(">II", 1000, duration_ms) + bytes(80)
    track = _box(b"trak", _box(b"tkhd", bytes(76) + struct.pack(">II", 4 << 16, 2 << 16)))
    return _box(b"ftyp", b"isom\0\0\0\0isom") + _box(b"moov", _box(b"mvhd", header) + track) + _box(b"mdat", filler)


def frame(body: bytes | None = None, **changes: Any) -> Frame:
    body = png() if body is None else body
    size = (int.from_bytes(body[16:20], "big"), int.from_bytes(body[20:24], "big"))
    given: dict[str, Any] = {
        **ORIGIN,
        "sha256": sha256_hex(body),
        "media_type": "image/png",
        "width": size[0],
        "height": size[1],
        "size_bytes": len(body),
        "body": body,
    }
    return Frame(**(given | changes))


def clip(body: bytes | None = None, **changes: Any) -> Clip:
    body = mp4() if body is None else body
    given: dict[str, Any] = {
        **ORIGIN,
        "sha256": sha256_hex(body),
        "duration_us": 5_000_000,
        "size_bytes": len(body),
        "body": body,
    }
    return Clip(**(given | changes))


def cid(code: str = "C-1", **changes: Any) -> Cid:
    return Cid(**({**ORIGIN, "code": code} | changes))


def ldo(ldo_id: str = "L-1", **changes: Any) -> Ldo:
    content = {"sensor_data": {"t": 21.5}, "context": {"line": 3}, "prediction": {"ok": True}}
    return Ldo(**({**ORIGIN, "ldo_id": ldo_id, "body": orjson.dumps(content)} | changes))


def good(kind: Kind) -> InputEvent:
    events: dict[Kind, InputEvent] = {Kind.CID: cid(), Kind.FRAME: frame(), Kind.CLIP: clip(), Kind.LDO: ldo()}
    return events[kind]


def raw_delivery(
    kind: Kind, value: bytes | None, *, offset: int = 0, partition: int = 0, **changes: Any
) -> ConsumedMessage:
    given: dict[str, Any] = {
        "topic": input_topic(kind).name,
        "partition": partition,
        "offset": offset,
        "timestamp_us": NOW_US,
        "key": b"camera-1",
        "value": value,
        "headers": (),
    }
    return ConsumedMessage(**(given | changes))


def delivery(event: InputEvent, *, offset: int = 0, partition: int = 0, **changes: Any) -> ConsumedMessage:
    return raw_delivery(kind_of(event), encode(event), offset=offset, partition=partition, **changes)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _box(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", 8 + len(data)) + kind + data
