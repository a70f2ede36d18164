"""Which bytes a request asks for (RFC 9110, section 14). No I/O."""

import re
from dataclasses import dataclass

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Span:
    """So many bytes, from an offset on."""

    offset: int
    length: int

    def of(self, size_bytes: int) -> str:
        """Return it as Content-Range says it."""
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{size_bytes}"


class RangeNotSatisfiableError(Exception):
    """The range holds no byte of what there is."""


def span_of(header: str | None, size_bytes: int) -> Span | None:
    """Return the one range that a Range header asks for.

    None means the whole: there is no header, it cannot be read, or it asks for several ranges, and all of that may be
    answered as if it was not there.

    Raises:
        Unsatisfiable: it asks for nothing that there is.
    """
    found = _RANGE.fullmatch(header.strip()) if header is not None else None
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size_bytes)
        if not length:
            raise RangeNotSatisfiableError
        return Span(size_bytes - length, length)
    first = int(found[1])
    if found[2] and int(found[2]) < first:
        return None
    if first >= size_bytes:
        raise RangeNotSatisfiableError
    last = min(int(found[2]), size_bytes - 1) if found[2] else size_bytes - 1
    return Span(first, last - first + 1)
