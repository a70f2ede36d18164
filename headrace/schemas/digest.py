"""Identity: digests, record ids, and the keys under which bytes are stored.

A frame or clip is identified by the SHA-256 of its bytes. A CID or LDO is identified by the SHA-256 of one JSON object
that says all of it: who saw it, where and when, and what. The sequence number is left out, because it belongs to the
sending: the same scan sent twice is one record, while the same code scanned again later is another.

What an LDO's body says stands in that object as the source wrote it, byte for byte: to parse numbers and write them
again would round those that a double cannot hold, and make one record of two that differ. The price is that the same
values with other white space are another record, so a source has to repeat what it wrote.
"""

from collections.abc import Set as AbstractSet
from hashlib import sha256
from typing import Any, assert_never
from uuid import UUID, uuid5

import orjson

from headrace.schemas.events import Cid, Kind, Ldo
from headrace.schemas.json_guard import canonical, members, parse_object
from headrace.schemas.reject import RejectCode, RejectedError

LDO_PARTS = ("sensor_data", "context", "prediction")  # the objects that every LDO holds

# Namespaces are fixed for ever: changing one would change every id that was ever announced.
_RECORDS = UUID("6b0b5f0a-7d0c-5b0e-9a58-1f6c1f6f2d11")
_ANNOUNCEMENTS = UUID("0d8ab3f7-3d52-53a7-8a1b-8d5f52f2b6a2")
_DEAD_LETTERS = UUID("b3c9f3d8-64c5-5b7c-93e1-6a4f0f3b9c53")
_RESULTS = UUID("f2f4cf0e-95f7-5a3c-8c55-0a6f8d1f7e74")

_HEX_DIGITS = frozenset("0123456789abcdef")


def sha256_hex(data: bytes | bytearray | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Say whether `text` is 64 lower-case hexadecimal digits."""
    return len(text) == 64 and _HEX_DIGITS.issuperset(text)


def canonical_body(event: Cid | Ldo) -> bytes:
    """Return the bytes that stand for a CID or LDO: one JSON object in UTF-8.

    They are what is stored, and their SHA-256 is the record's digest. What the message says comes first, with sorted
    keys and no spaces; an LDO's own body follows with its members as they are. Where the body repeats what its message
    says, it stands only there.

    Raises:
        Rejected: the LDO's body is not a JSON object with sensor_data, context and prediction, or names another
            source, time or ldo_id than its message.
    """
    said: dict[str, Any] = {
        "captured_at_us": event.captured_at_us,
        "site": event.site,
        "source_id": event.source_id,
    }
    match event:
        case Cid():
            said |= {
                "code": event.code,
                "kind": "cid",
                "seen_in": event.seen_in,
                "symbology": event.symbology,
            }
            return canonical(said)
        case Ldo():
            said |= {"clip_sha256": event.clip_sha256, "kind": "ldo", "ldo_id": event.ldo_id}
            return _spliced(said, event.body)
        case _:
            assert_never(event)


def _spliced(said: dict[str, Any], body: bytes) -> bytes:
    """Put what the message says before the members of the body."""
    parsed = parse_object(body, "body", required=LDO_PARTS)
    if repeated := said.keys() & parsed.keys():
        _check_repeated(said, repeated, body)
        said = {name: value for name, value in said.items() if name not in repeated}
    own = body.strip()
    return canonical(said)[:-1] + b"," + own[1:] if said else own


def _check_repeated(said: dict[str, Any], repeated: AbstractSet[str], body: bytes) -> None:
    # Each as it is written: where a name stands twice, the parsed body shows only the last.
    for name, text in members(body):
        if name in repeated:
            value = orjson.loads(text)
            if type(value) is not type(said[name]) or value != said[name]:
                raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"body speaks of another {name} than its message")


def record_id(kind: Kind, digest: str) -> UUID:
    """Return the record's id: UUIDv5 of kind and digest."""
    return uuid5(_RECORDS, f"{kind}:{digest}")


def event_id(record: UUID) -> UUID:
    """Return the id of a record's announcement: a replay can only repeat it."""
    return uuid5(_ANNOUNCEMENTS, str(record))


def dead_letter_id(topic: str, partition: int, offset: int, value: bytes | None) -> UUID:
    """Return a dead letter's id: UUIDv5 of where the message stood and what it held."""
    held = "null" if value is None else sha256_hex(value)
    return uuid5(_DEAD_LETTERS, f"{topic}:{partition}:{offset}:{held}")


def result_id(consumer: str, record: UUID) -> UUID:
    """Return the id of what a consumer found in a record."""
    return uuid5(_RESULTS, f"{consumer}:{record}")


def blob_key(digest: str) -> str:
    """Return the key under which bytes with this digest are stored."""
    return f"blobs/sha256/{digest[:2]}/{digest[2:4]}/{digest}"


def pack_key(digest: str) -> str:
    """Return the key under which a tar of small bodies with this digest is stored."""
    return f"packs/sha256/{digest[:2]}/{digest[2:4]}/{digest}.tar"


def derived_key(digest: str) -> str:
    """Return the key for bytes that a consumer made from a record, such as a thumbnail.

    They have no record of their own, so they lie apart from what the catalog answers for.
    """
    return f"derived/sha256/{digest[:2]}/{digest[2:4]}/{digest}"


def staging_prefix(site: str, source_id: str) -> str:
    """Return the part of the store that one source may stage bodies in."""
    return f"staging/{_segment(site)}/{_segment(source_id)}/"


def staging_key(site: str, source_id: str, digest: str) -> str:
    """Return the key under which a source stages a body too large for a message."""
    return staging_prefix(site, source_id) + digest


def _segment(name: str) -> str:
    """Return a name as one path segment: other characters than letters, digits, '-' and '_' are percent-encoded."""
    return "".join(
        char
        if char.isascii() and (char.isalnum() or char in "-_")
        else "".join(f"%{byte:02X}" for byte in char.encode(errors="surrogatepass"))
        for char in name
    )
