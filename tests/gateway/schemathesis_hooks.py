"""What Schemathesis does not know by itself: the media type of tus, and that HTTP allows any header."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def tus_bytes(_context: Any, value: Any) -> bytes:
    """Bytes are sent as they are."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def filter_case(_context: Any, case: Any) -> bool:
    """A header that the document does not name is no mistake: every server has to pass it over (RFC 9110, 5.1)."""
    return "x-schemathesis-unknown-property" not in {name.lower() for name in case.headers or {}}
