"""The HTTP request of an LDO to `POST /ingest/ldo`, and the meaning of its response. No I/O.

A body is written once, to the spool, and sent from there until the service accepts it. Its boundary and idempotency key
are derived from its file name, so a retry reads only the bytes.
"""

import json
import math
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from headrace.runtime.backoff import Backoff
from headrace.schemas.limits import LDO_BODY_BYTES_MAX

DELAY_S = 1.0
DELAY_S_MAX = 60.0

_TIMES = frozenset({"captured_at", "timestamp"})
# The LDO itself is invalid, so a retry would fail too. Any other error may be temporary (a key is corrected, a server
# returns, an earlier request is still in progress: 409), so the LDO is kept.
_REFUSALS = frozenset({400, 413, 415, 422})


class PostOutcome(Enum):
    """What to do with an LDO after a response."""

    SENT = auto()
    REFUSED = auto()
    LATER = auto()


def outcome_of(status: int) -> PostOutcome:
    """Return the meaning of a status; 202 means the same as 200, because the LDO is durable then too."""
    if 200 <= status < 300:
        return PostOutcome.SENT
    return PostOutcome.REFUSED if status in _REFUSALS else PostOutcome.LATER


def delay_s(failures: int, retry_after: str | None, spread: float) -> float:
    """Return the delay after consecutive failures; `spread` from 0 to 1 is the jitter between edge servers."""
    retry_after_s = float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0
    return Backoff(DELAY_S, DELAY_S_MAX).delay_s(failures, jitter=spread, at_least_s=retry_after_s)


def metadata_of(
    ldo_id: str,
    sensor_data: Mapping[str, Any] | None,
    context: Mapping[str, Any] | None,
    prediction: Mapping[str, Any] | None,
    *,
    now_s: float,
) -> bytes:
    """Return an LDO's metadata as JSON, with its capture time, because it may arrive much later.

    NumPy arrays and numbers are written as JSON arrays and numbers.

    Raises:
        TypeError, ValueError: a value is not JSON, or the metadata is too large.
    """
    metadata: dict[str, Any] = {
        "ldo_id": ldo_id,
        "sensor_data": sensor_data or {},
        "context": context or {},
        "prediction": prediction or {},
    }
    if not _TIMES & metadata["context"].keys():
        metadata["captured_at"] = now_s
    data = json.dumps(metadata, allow_nan=False, ensure_ascii=False, default=_plain).encode()
    if len(data) > LDO_BODY_BYTES_MAX:
        raise ValueError(f"the metadata of an LDO has at most {LDO_BODY_BYTES_MAX} bytes")
    return data


def form_head(boundary: str, metadata: bytes, *, has_video: bool) -> bytes:
    """Return a multipart body up to the video's bytes."""
    mark = b"--" + boundary.encode()
    parts = [mark, b'Content-Disposition: form-data; name="metadata"', b"", metadata]
    if has_video:
        parts += [
            mark,
            b'Content-Disposition: form-data; name="video"; filename="clip.mp4"',
            b"Content-Type: video/mp4",
            b"",
            b"",
        ]
    return b"\r\n".join(parts)


def form_tail(boundary: str) -> bytes:
    """Return the end of a multipart body."""
    return b"\r\n--" + boundary.encode() + b"--\r\n"


def _plain(value: Any) -> Any:
    plain = value.tolist() if hasattr(value, "tolist") else None
    if plain is None or (isinstance(plain, float) and not math.isfinite(plain)):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return plain
