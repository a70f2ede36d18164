"""Bounded parsing of JSON from outside.

orjson itself rejects nesting beyond 1,024, NaN and infinities, numbers beyond a double's range, and lone surrogates. It
can write at most 254 levels.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import orjson

from headrace.schemas.reject import RejectCode, RejectedError

NESTING_MAX = 250
"""Levels of a document; four are left for documents that embed it."""

_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
# Between the members of an object that was parsed before.
_AFTER_VALUE = re.compile(r"[ \t\r\n]*,?[ \t\r\n]*")
_AFTER_NAME = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
# It only finds the end of a value, so it need not convert numbers.
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)


def parse_object(data: bytes, name: str, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Parse a JSON object, in which every key in `required` must have an object.

    Raises:
        RejectedError: it is not JSON, not an object, nested deeper than `NESTING_MAX`, or a required object is missing.
    """
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise RejectedError(RejectCode.NOT_JSON, f"{name} is not JSON: {error.msg} at byte {error.pos}") from None
    if not isinstance(value, dict):
        raise RejectedError(RejectCode.NOT_JSON, f"{name} is not a JSON object")
    # Counting is cheap, and most documents have fewer brackets in all.
    if data.count(b"{") + data.count(b"[") > NESTING_MAX:
        _check_nesting(value, name)
    for key in required:
        if not isinstance(value.get(key), dict):
            raise RejectedError(RejectCode.MISSING_FIELD, f"{name} lacks the object {key}")
    return value


def members(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the members of a JSON object that `parse_object` accepted, in order: name, and value as written.

    A repeated name is yielded each time.
    """
    text = data.decode().strip()
    at = _end(_AFTER_VALUE, text, 1)
    while text[at] != "}":
        name, at = _DECODER.raw_decode(text, at)
        begin = _end(_AFTER_NAME, text, at)
        _, end = _DECODER.raw_decode(text, begin)
        yield name, text[begin:end].encode()
        at = _end(_AFTER_VALUE, text, end)


def check_values(data: bytes, name: str, values_max: int) -> None:
    """Check the number of values in JSON that is not parsed yet: parsing and searching take time for each.

    Raises:
        RejectedError: there may be more than `values_max`.
    """
    if _separators(data) > values_max and _separators(_STRING.sub(b"", data)) > values_max:
        raise RejectedError(RejectCode.TOO_LARGE, f"{name} has more than {values_max} values")


def canonical(value: dict[str, Any]) -> bytes:
    """Return JSON in canonical form: sorted keys, no spaces, UTF-8.

    Raises:
        RejectedError: a string contains a lone surrogate.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, "a string contains a lone surrogate") from None


def check_keepable(data: bytes, name: str) -> None:
    """Check that JSON can be stored in PostgreSQL, which has no U+0000.

    Raises:
        RejectedError: it contains that character.
    """
    # The plain search suffices for nearly every document; the expression rules out an escaped backslash before it.
    if b"\\u0000" in data and _NUL.search(data):
        raise RejectedError(RejectCode.NOT_JSON, f"{name} contains the character U+0000, which PostgreSQL cannot store")


def _check_nesting(value: dict[str, Any], name: str) -> None:
    try:
        orjson.dumps([[[[value]]]])
    except orjson.JSONEncodeError:
        raise RejectedError(RejectCode.NOT_JSON, f"{name} is nested more than {NESTING_MAX} levels deep") from None


def _separators(data: bytes) -> int:
    return data.count(b",") + data.count(b"[") + data.count(b"{")


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    assert match is not None
    return match.end()
