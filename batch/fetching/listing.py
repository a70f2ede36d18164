"""A file of URLs, read line by line within a bound."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

LINE_BYTES_MAX = 64 * 1024


def read_items(stream: BinaryIO) -> Iterator[str | dict[str, Any]]:
    """Yield what each line says: a URL, or a JSON object with `url`, `license` and `source`.

    Blank lines and those that begin with '#' say nothing. A JSON object that cannot be read is yielded empty, and of a
    line longer than LINE_BYTES_MAX its beginning, which is no URL either: each counts as one that failed.
    """
    while line := stream.readline(LINE_BYTES_MAX):
        rest = line
        while len(rest) == LINE_BYTES_MAX and not rest.endswith(b"\n"):
            rest = stream.readline(LINE_BYTES_MAX)
        text = line.strip()
        if text.startswith(b"{"):
            yield _object(text)
        elif text and not text.startswith(b"#"):
            yield text.decode(errors="replace")


def _object(text: bytes) -> dict[str, Any]:
    try:
        said: dict[str, Any] = orjson.loads(text)
    except ValueError:
        return {}
    return said
