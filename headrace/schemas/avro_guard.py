"""Counts before reading: no array in a message may announce more items than the contract allows.

A reader that believes an announced count can be made to build a list far larger than the message. This walk reads only
lengths and counts, never values, and is needed only where a schema has an array at all.
"""

from typing import Any

from headrace.schemas.limits import ARRAY_ITEMS_MAX
from headrace.schemas.reject import RejectCode, RejectedError

_FIXED_BYTES = {"null": 0, "boolean": 1, "float": 4, "double": 8}
_VARINT_BYTES_MAX = 10


def check_arrays(schema: Any, raw: bytes, start: int) -> None:
    """Check every array count in a record that begins at `start`.

    Raises:
        Rejected: a count or length is negative, beyond the limit, or beyond the message.
    """
    _skip(schema, raw, start)


def has_array(schema: Any) -> bool:
    """Say whether a record has an array or map among its fields."""
    return any(
        isinstance(field["type"], dict) and field["type"]["type"] in {"array", "map"} for field in schema["fields"]
    )


def _skip(schema: Any, raw: bytes, at: int) -> int:
    """Return where the value that begins at `at` ends."""
    if isinstance(schema, list):
        branch, at = _varint(raw, at)
        if not 0 <= branch < len(schema):
            raise _undecodable("a union names a branch that does not exist")
        return _skip(schema[branch], raw, at)
    kind = schema["type"] if isinstance(schema, dict) else schema
    match kind:
        case "record":
            for field in schema["fields"]:
                at = _skip(field["type"], raw, at)
            return at
        case "array":
            return _skip_array(schema["items"], raw, at)
        case "int" | "long":
            return _varint(raw, at)[1]
        case "string" | "bytes":
            length, at = _varint(raw, at)
            return _forward(raw, at, length)
        case _:
            return _forward(raw, at, _FIXED_BYTES[kind])


def _skip_array(items: Any, raw: bytes, at: int) -> int:
    total = 0
    while True:
        count, at = _varint(raw, at)
        if count == 0:
            return at
        total += count
        if count < 0 or total > ARRAY_ITEMS_MAX:
            raise _undecodable(f"an array announces more than {ARRAY_ITEMS_MAX} items")
        for _ in range(count):
            at = _skip(items, raw, at)


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(_VARINT_BYTES_MAX):
        if at + index >= len(raw):
            raise _undecodable("the value ends within a number")
        byte = raw[at + index]
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), at + index + 1
    raise _undecodable("a number is longer than ten bytes")


def _forward(raw: bytes, at: int, length: int) -> int:
    if not 0 <= length <= len(raw) - at:
        raise _undecodable("a length goes beyond the message")
    return at + length


def _undecodable(reason: str) -> RejectedError:
    return RejectedError(RejectCode.UNDECODABLE, reason)
