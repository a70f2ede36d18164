"""A file of URLs, read line by line within a bound."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import orjson

from runtime.errors import Exit, HeadraceError

LINE_BYTES_MAX = 64 * 1024


def read_items(stream: BinaryIO) -> Iterator[str | dict[str, Any]]:
    """Yield what each line says: a URL, or a JSON object with `url`, `license` and `source`.

    Blank lines and those that begin with '#' say nothing. A JSON object that cannot be read is yielded empty, so that
    it counts as one that failed.

    Raises:
        HeadraceError: a line is longer than LINE_BYTES_MAX.
    """
    while line := stream.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX:
            raise HeadraceError(
                "line_too_long", f"a line is longer than {LINE_BYTES_MAX} bytes",
                hint="is it a list of URLs, one a line?", exit_code=Exit.USAGE,
            )  # fmt: skip
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
