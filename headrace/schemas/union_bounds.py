"""Branches before values: no union in a message may name a branch that does not exist.

fastavro takes the number of a union's branch as a Python index, so -1 would read as the last branch where every other
Avro reader refuses the message. This walk is cheap because it follows a plan made once for each schema, and because it
runs after decoding, when every length is known to lie within the message.
"""

from typing import Any, TypeAlias

from headrace.schemas.reject import RejectCode, RejectedError

_VARINT = 0
_SIZED = -1
_WIDTHS = {"int": _VARINT, "long": _VARINT, "string": _SIZED, "bytes": _SIZED, "boolean": 1, "float": 4, "double": 8}

_SHIFT_MAX = 63  # the tenth byte of a 64-bit number begins at bit 63

# For each field up to the last union: whether it is one, and how many bytes its value has.
Plan: TypeAlias = tuple[tuple[bool, int], ...]


def plan_of(fields: list[dict[str, Any]]) -> Plan:
    """Return the plan of a record's fields; a union must be of null and one other type.

    Raises:
        KeyError: a field is of a type that has no plan: an array, a map, a record or an enumeration.
        ValueError: a union is of something else.
    """
    steps = [_step(field["type"]) for field in fields]
    while steps and not steps[-1][0]:
        steps.pop()
    return tuple(steps)


def check_unions(plan: Plan, raw: bytes, at: int) -> None:
    """Check the unions of a record that begins at `at` and has been decoded.

    Raises:
        Rejected: one names a branch that does not exist, or a number before it is longer than 64 bits.
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
        at += 1
        if width == _SIZED:
            at += (value | byte << shift) >> 1


def _step(kind: Any) -> tuple[bool, int]:
    if not isinstance(kind, list):
        return False, _WIDTHS[kind["type"] if isinstance(kind, dict) else kind]
    if len(kind) != 2 or kind[0] != "null":
        raise ValueError(f"a union must be of null and one other type, not of {kind}")
    return True, _step(kind[1])[1]
