"""A file of URLs, read line by line within a bound."""

from codecs import BOM_UTF8
from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

LINE_BYTES_MAX = 64 * 1024


def read_items(stream: BinaryIO) -> Iterator[str | dict[str, Any]]:
    """Yield what each line says: a URL, or a JSON object with `url`, `license` and `source`.

    Blank lines and those that begin with '#' say nothing. A JSON object that cannot be read is yielded empty, and of a
    line that is longer than LINE_BYTES_MAX only its beginning, so that both count as one that failed.
    """
    before = BOM_UTF8  # that editors put in front of a list
    while line := stream.readline(LINE_BYTES_MAX + 1):
        text = line.removeprefix(before)
        before = b""
        if len(line) > LINE_BYTES_MAX:
            _skip_line(stream, line)
        else:
            text = text.strip()
        if text.startswith(b"{"):
            yield _object(text)
        elif text and not text.startswith(b"#"):
            yield text.decode(errors="replace")


def _skip_line(stream: BinaryIO, part: bytes) -> None:
    while part and not part.endswith(b"\n"):
        part = stream.readline(LINE_BYTES_MAX)


def _object(text: bytes) -> dict[str, Any]:
    try:
        said: dict[str, Any] = orjson.loads(text)
    except ValueError:
        return {}
    return said
