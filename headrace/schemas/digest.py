"""Identity: digests, record ids, and the keys of stored bytes.

A frame or clip is identified by the SHA-256 of its bytes. A CID or LDO is identified by the SHA-256 of one JSON object
with its source, site, time and content. The sequence number is left out, because it belongs to the delivery: the same
scan sent twice is one record, while the same code scanned again later is another.

The members of an LDO's body are part of that object byte for byte. Parsing and writing numbers again would round those
that a double cannot hold, and make one record of two different ones. Therefore the same values with other white space
are another record, so a source must repeat the bytes that it sent.
"""

from collections.abc import Set as AbstractSet
from hashlib import sha1, sha256
from string import ascii_letters, digits
from typing import Any, assert_never
from uuid import UUID

import orjson

from headrace.schemas.events import Cid, Kind, Ldo
from headrace.schemas.json_guard import canonical, members, parse_object
from headrace.schemas.limits import KEY_SEGMENT_BYTES_MAX
from headrace.schemas.reject import RejectCode, RejectedError

LDO_PARTS = ("sensor_data", "context", "prediction")  # the objects that every LDO must have

# Never change a namespace: every announced id depends on it.
_RECORDS = sha1(UUID("6b0b5f0a-7d0c-5b0e-9a58-1f6c1f6f2d11").bytes, usedforsecurity=False)
_ANNOUNCEMENTS = sha1(UUID("0d8ab3f7-3d52-53a7-8a1b-8d5f52f2b6a2").bytes, usedforsecurity=False)
_DEAD_LETTERS = sha1(UUID("b3c9f3d8-64c5-5b7c-93e1-6a4f0f3b9c53").bytes, usedforsecurity=False)
_RESULTS = sha1(UUID("f2f4cf0e-95f7-5a3c-8c55-0a6f8d1f7e74").bytes, usedforsecurity=False)
_UUID_FIXED_BITS = 0xF000 << 64 | 0xC000 << 48  # of the version and the variant
_UUID_5 = 0x5000 << 64 | 0x8000 << 48

HASH_IN_THREAD_BYTES_MIN = 256 * 1024  # below this a thread's hop costs more than the hash (0.6 µs a KiB)

_HEX_DIGITS = frozenset("0123456789abcdef")
_PLAIN_BYTES = frozenset((ascii_letters + digits + "-_").encode())


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Return whether `text` is 64 lower-case hexadecimal digits."""
    return len(text) == 64 and _HEX_DIGITS.issuperset(text)


def canonical_body(event: Cid | Ldo) -> bytes:
    """Return the stored form of a CID or LDO: one JSON object in UTF-8, whose SHA-256 is the record's digest.

    The fields of the message come first, with sorted keys and no spaces; the members of an LDO's body follow unchanged.
    A field that the body repeats appears only in the body.

    Raises:
        RejectedError: the LDO's body is not a JSON object with sensor_data, context and prediction, or names another
            source, time or ldo_id than its message.
    """
    fields: dict[str, Any] = {
        "captured_at_us": event.captured_at_us,
        "site": event.site,
        "source_id": event.source_id,
    }
    match event:
        case Cid():
            fields |= {
                "code": event.code,
                "kind": "cid",
                "seen_in": event.seen_in,
                "symbology": event.symbology,
            }
            return canonical(fields)
        case Ldo():
            fields |= {"clip_sha256": event.clip_sha256, "kind": "ldo", "ldo_id": event.ldo_id}
            return _spliced(fields, event.body)
        case _:
            assert_never(event)


def _spliced(fields: dict[str, Any], body: bytes) -> bytes:
    """Put the fields of the message before the members of the body."""
    parsed = parse_object(body, "body", required=LDO_PARTS)
    if repeated := fields.keys() & parsed.keys():
        _check_repeated(fields, repeated, body)
        fields = {name: value for name, value in fields.items() if name not in repeated}
    own = body.strip()
    return canonical(fields)[:-1] + b"," + own[1:] if fields else own


def _check_repeated(fields: dict[str, Any], repeated: AbstractSet[str], body: bytes) -> None:
    # Members as written: the parsed body has only the last of repeated names.
    for name, text in members(body):
        if name in repeated:
            value = orjson.loads(text)
            if type(value) is not type(fields[name]) or value != fields[name]:
                raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"body has another {name} than its message")


def clip_of(body: bytes) -> str | None:
    """Return the SHA-256 of the clip that the stored form of an LDO names; None if it names none."""
    try:
        named = parse_object(body, "body").get("clip_sha256")
    except RejectedError:
        return None
    return named if isinstance(named, str) and is_digest(named) else None


def record_id(kind: Kind, digest: str) -> UUID:
    """Return the record's id: UUIDv5 of kind and digest."""
    return _uuid5(_RECORDS, f"{kind}:{digest}")


def event_id(record: UUID, site: str | None = None) -> UUID:
    """Return the id of a record's announcement: a replay can only repeat it.

    With `site`, that of the announcement for a further site that delivered the same bytes.
    """
    return _uuid5(_ANNOUNCEMENTS, str(record) if site is None else f"{record}:{site}")


def dead_letter_id(topic: str, partition: int, offset: int, value: bytes | None) -> UUID:
    """Return a dead letter's id: UUIDv5 of the message's topic, partition, offset and value."""
    value_digest = "null" if value is None else sha256_hex(value)
    return _uuid5(_DEAD_LETTERS, f"{topic}:{partition}:{offset}:{value_digest}")


def result_id(consumer: str, record: UUID, announcement: UUID) -> UUID:
    """Return the id of a consumer's result for a record, or for a further site's announcement of it."""
    return _uuid5(_RESULTS, f"{consumer}:{record if announcement == event_id(record) else announcement}")


def blob_key(digest: str) -> str:
    """Return the key of a blob with this digest."""
    return f"blobs/sha256/{digest[:2]}/{digest[2:4]}/{digest}"


def pack_key(digest: str) -> str:
    """Return the key of a tar of small bodies with this digest."""
    return f"packs/sha256/{digest[:2]}/{digest[2:4]}/{digest}.tar"


def derived_key(record: UUID, digest: str) -> str:
    """Return the key of bytes that a consumer derived from a record, such as a thumbnail.

    They have no record of their own, so they are kept apart from the blobs of the catalog.
    """
    return derived_prefix(record) + digest


def derived_prefix(record: UUID) -> str:
    """Return the prefix of the keys of everything that is derived from a record."""
    return f"derived/records/{record.hex[:2]}/{record}/"


def erased_key(digest: str) -> str:
    """Return the key of the empty object that says that the bytes with this digest were erased."""
    return f"erased/sha256/{digest[:2]}/{digest[2:4]}/{digest}"


def staging_prefix(site: str, source_id: str) -> str:
    """Return the key prefix under which a source may stage bodies."""
    return f"staging/{_segment(site)}/{_segment(source_id)}/"


def staging_key(site: str, source_id: str, digest: str) -> str:
    """Return the key of a staged body, which is too large for a message."""
    return staging_prefix(site, source_id) + digest


def _segment(name: str) -> str:
    """Return a name as one segment of a key, of at most KEY_SEGMENT_BYTES_MAX bytes.

    Only ASCII letters, digits, '-' and '_' are not percent-encoded. What is longer then is '~' and the name's SHA-256:
    '~' itself is encoded, so no other name has that segment.
    """
    encoded = name.encode(errors="surrogatepass")
    segment = "".join(chr(byte) if byte in _PLAIN_BYTES else f"%{byte:02X}" for byte in encoded)
    return segment if len(segment) <= KEY_SEGMENT_BYTES_MAX else f"~{sha256_hex(encoded)}"


def _uuid5(namespace: Any, name: str) -> UUID:
    """Return the UUIDv5 of RFC 9562, 5.5, at half the cost of `uuid.uuid5`; `namespace` is hashed already."""
    hashed = namespace.copy()
    hashed.update(name.encode())
    return UUID(int=int.from_bytes(hashed.digest()[:16]) & ~_UUID_FIXED_BITS | _UUID_5)
