"""JSON that comes from outside, parsed within bounds.

orjson itself refuses nesting beyond 1,024, numbers that are no numbers and lone surrogates; what it reads it can only
write again down to 254 levels, so a body deeper than that has no canonical form.
"""

import re
from typing import Any

import orjson

from schemas.reject import RejectCode, Rejected

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def parse_object(data: bytes, name: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Parse a JSON object; every key in `required` must be there and hold an object.

    Raises:
        Rejected: it is not JSON, not an object, or lacks a required object.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise Rejected(RejectCode.NOT_JSON, f"{name} is not JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise Rejected(RejectCode.NOT_JSON, f"{name} is not a JSON object")
    for key in required:
        if not isinstance(value.get(key), dict):
            raise Rejected(RejectCode.MISSING_FIELD, f"{name} lacks the object {key}")
    return value


def canonical(value: dict[str, Any], name: str) -> bytes:
    """Write JSON in its one canonical form: sorted keys, no spaces, UTF-8.

    Raises:
        Rejected: it is nested deeper than 254 levels.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise Rejected(RejectCode.NOT_JSON, f"{name} is nested more than 254 levels deep") from None


def check_keepable(data: bytes, name: str) -> None:
    """Check that JSON can be kept in PostgreSQL, which has no place for the character U+0000.

    Raises:
        Rejected: it holds that character.
    """
    # The plain search ends it for nearly every document; the expression only rules out an escaped backslash before it.
    if b"\\u0000" in data and _NUL.search(data):
        raise Rejected(RejectCode.NOT_JSON, f"{name} holds the character U+0000, which the catalog cannot keep")
