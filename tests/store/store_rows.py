"""Rows for the tests: everything follows from a number, so the same number is the same thing seen again."""

from hashlib import sha256
from uuid import UUID

from headrace.schemas.catalog_rows import BlobRow, DeadLetterRow, RecordRow, RowBatch, SightingRow
from headrace.schemas.digest import blob_key, dead_letter_id, record_id
from headrace.schemas.events import Kind

CAPTURED_AT_US = 1_790_000_000_123_456


def digest_of(number: int) -> bytes:
    return sha256(b"body %d" % number).digest()


def id_of(number: int, kind: Kind = Kind.FRAME) -> UUID:
    return record_id(kind, digest_of(number).hex())


def blob(number: int) -> BlobRow:
    digest = digest_of(number)
    return BlobRow(digest=digest, size_bytes=1000 + number, media_type="image/jpeg", store_key=blob_key(digest.hex()))


def record(number: int, *, kind: Kind = Kind.FRAME, source_id: str = "cam-1", **more: object) -> RecordRow:
    values: dict[str, object] = {
        "record_id": id_of(number, kind),
        "kind": kind,
        "digest": digest_of(number),
        "site": "factory",
        "source_id": source_id,
        "captured_at_us": CAPTURED_AT_US + number,
        "sequence": number,
        "media_type": "image/jpeg",
        "size_bytes": 1000 + number,
    }
    return RecordRow(**(values | more))  # type: ignore[arg-type]


def sighting(number: int, *, kind: Kind = Kind.FRAME, source_id: str = "cam-1", **more: object) -> SightingRow:
    values: dict[str, object] = {
        "topic": f"edge.{kind}s.v1",
        "partition": 0,
        "offset": number,
        "record_id": id_of(number, kind),
        "site": "factory",
        "source_id": source_id,
        "captured_at_us": CAPTURED_AT_US + number,
        "sequence": number,
    }
    return SightingRow(**(values | more))  # type: ignore[arg-type]


def letter(number: int, **more: object) -> DeadLetterRow:
    value = b"poison %d" % number
    values: dict[str, object] = {
        "dead_letter_id": dead_letter_id("edge.frames.v1", 0, number, value),
        "code": "undecodable",
        "reason": "the first byte is not 0",
        "topic": "edge.frames.v1",
        "partition": 0,
        "offset": number,
        "message_timestamp_us": CAPTURED_AT_US,
        "key": b"cam-1",
        "value": value,
    }
    return DeadLetterRow(**(values | more))  # type: ignore[arg-type]


def batch(
    numbers: range | list[int],
    *,
    kind: Kind = Kind.FRAME,
    source_id: str = "cam-1",
    letters: list[DeadLetterRow] | None = None,
) -> RowBatch:
    return RowBatch(
        blobs=[blob(number) for number in numbers],
        records=[record(number, kind=kind, source_id=source_id) for number in numbers],
        sightings=[sighting(number, kind=kind, source_id=source_id) for number in numbers],
        dead_letters=letters or [],
    )
