"""Bounds of Avro values that fastavro does not check: counts of arrays and branches of unions.

A reader that trusts an array's count can be made to build a list far larger than the message. `check_arrays` reads only
lengths and counts, before decoding, and only for schemas with an array.

fastavro uses the branch of a union as a Python index, so it reads -1 as the last branch, and it drops the bits of a
number beyond 64; every other Avro reader refuses such messages. `check_fields` runs after decoding and follows a plan
that is made once for each schema.
"""

from typing import Any, TypeAlias

from headrace.schemas.limits import ARRAY_ITEMS_MAX
from headrace.schemas.reject import RejectCode, RejectedError

_FIXED_BYTES = {"null": 0, "boolean": 1, "float": 4, "double": 8}
_VARINT_BYTES_MAX = 10
_VARINT = 0
_SIZED = -1
_WIDTHS = {"int": _VARINT, "long": _VARINT, "string": _SIZED, "bytes": _SIZED, "boolean": 1, "float": 4, "double": 8}
_SHIFT_MAX = 63  # the tenth byte of a 64-bit number begins at bit 63

# For each field: whether it is a union, and the size of its value in bytes.
FieldPlan: TypeAlias = tuple[tuple[bool, int], ...]


def check_arrays(schema: Any, raw: bytes, start: int) -> None:
    """Check every array count in a record that begins at `start`.

    Raises:
        RejectedError: a count or length is negative, beyond the limit, or beyond the message.
    """
    _skip(schema, raw, start)


def has_array(schema: Any) -> bool:
    """Return whether a record has an array or map among its fields."""
    return any(
        isinstance(field["type"], dict) and field["type"]["type"] in {"array", "map"} for field in schema["fields"]
    )


def _skip(schema: Any, raw: bytes, at: int) -> int:
    """Return the end of the value that begins at `at`."""
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
            if value >> 64:
                raise _undecodable("a number has more than 64 bits")
            return (value >> 1) ^ -(value & 1), at + index + 1
    raise _undecodable("a number is longer than ten bytes")


def _forward(raw: bytes, at: int, length: int) -> int:
    if not 0 <= length <= len(raw) - at:
        raise _undecodable("a length goes beyond the message")
    return at + length


def _undecodable(reason: str) -> RejectedError:
    return RejectedError(RejectCode.UNDECODABLE, reason)


def plan_of(fields: list[dict[str, Any]]) -> FieldPlan:
    """Return the plan of a record's fields; a union must be of null and one other type.

    Raises:
        KeyError: a field is of a type that has no plan: an array, a map, a record or an enumeration.
        ValueError: a union is of something else.
    """
    return tuple(_step(field["type"]) for field in fields)


def check_fields(plan: FieldPlan, raw: bytes, at: int) -> None:
    """Check the unions and numbers of a record that begins at `at` and has been decoded.

    Raises:
        RejectedError: a union names a branch that does not exist, or a number has more than 64 bits.
    """
    for is_union, width in plan:
        if is_union:
            branch = raw[at]
            at += 1
            if branch == 0:
                continue
            if branch != 2:  # 1 in zigzag
                raise RejectedError(RejectCode.UNDECODABLE, "a union names a branch that does not exist")
        if width > 0:
            at += width
            continue
        shift = value = 0
        while (byte := raw[at]) >= 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
            at += 1
            if shift > _SHIFT_MAX:
                raise RejectedError(RejectCode.UNDECODABLE, "a number is longer than ten bytes")
        if shift == _SHIFT_MAX and byte > 1:  # fastavro drops the bits beyond 64 and reads on elsewhere
            raise RejectedError(RejectCode.UNDECODABLE, "a number has more than 64 bits")
        at += 1
        if width == _SIZED:
            at += (value | byte << shift) >> 1


def _step(kind: Any) -> tuple[bool, int]:
    if not isinstance(kind, list):
        return False, _WIDTHS[kind["type"] if isinstance(kind, dict) else kind]
    if len(kind) != 2 or kind[0] != "null":
        raise ValueError(f"a union must be of null and one other type, not of {kind}")
    return True, _step(kind[1])[1]
