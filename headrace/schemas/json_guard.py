"""JSON that comes from outside, parsed within bounds.

orjson itself refuses nesting beyond 1,024, numbers that are no numbers or that no double comes near, and lone
surrogates; what it reads it can only write again down to 254 levels.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from headrace.schemas.reject import RejectCode, RejectedError

NESTING_MAX = 250
"""Levels of a document, which leaves four to whoever shows it within another."""

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Between the members of an object; what stands there was parsed before.
_AFTER_VALUE = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")
_AFTER_NAME = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
# It only finds where a value ends, so it is spared making numbers of digits.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)


def parse_object(data: bytes, name: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Parse a JSON object; every key in `required` must be there and hold an object.

    Raises:
        Rejected: it is not JSON, not an object, nested deeper than `NESTING_MAX` levels, or lacks a required object.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RejectedError(RejectCode.NOT_JSON, f"{name} is not JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise RejectedError(RejectCode.NOT_JSON, f"{name} is not a JSON object")
    # Counting is nearly free, and most documents have fewer brackets than that in all.
    if data.count(b"{") + data.count(b"[") > NESTING_MAX:
        _check_nesting(value, name)
    for key in required:
        if not isinstance(value.get(key), dict):
            raise RejectedError(RejectCode.MISSING_FIELD, f"{name} lacks the object {key}")
    return value


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield each member of a JSON object that `parse_object` took, in order: its name, and its value as it is written.

    A name that stands there twice comes twice.
    """
    text = data.decode().strip()
    at = _end(_AFTER_VALUE, text, 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        begin = _end(_AFTER_NAME, text, at)
        _, end = _DECODER.raw_decode(text, begin)
        yield name, text[begin:end].encode()
        at = _end(_AFTER_VALUE, text, end)


def canonical(value: dict[str, Any]) -> bytes:
    """Write JSON in its one canonical form: sorted keys, no spaces, UTF-8.

    Raises:
        Rejected: a text holds a lone surrogate.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "a text holds a lone surrogate") from None


def check_keepable(data: bytes, name: str) -> None:
    """Check that JSON can be kept in PostgreSQL, which has no place for the character U+0000.

    Raises:
        Rejected: it holds that character.
    """
    # The plain search ends it for nearly every document; the expression only rules out an escaped backslash before it.
    if b"\\u0000" in data and _NUL.search(data):
        raise RejectedError(RejectCode.NOT_JSON, f"{name} holds the character U+0000, which the catalog cannot keep")


def _check_nesting(value: dict[str, Any], name: str) -> None:
    try:
        orjson.dumps([[[[value]]]])
    except orjson.JSONEncodeError:
        raise RejectedError(RejectCode.NOT_JSON, f"{name} is nested more than {NESTING_MAX} levels deep") from None


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    assert found is not None
    return found.end()
