"""One LDO as an HTTP request to `POST /ingest/ldo`, and what an answer means. No I/O.

A body is written once, to the spool, and sent from there as often as it takes: its boundary and its idempotency key
follow from the name of its file, so nothing has to be read again but the bytes.
"""

import json
import math
from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from headrace.runtime.backoff import Backoff

DELAY_S = 1.0
DELAY_S_MAX = 60.0
METADATA_BYTES_MAX = 1024 * 1024  # the contract's limit on what an LDO says

_TIMES = frozenset({"captured_at", "timestamp"})
# What is wrong with the LDO itself, and will be the next time too. Everything else may pass: a key is corrected, a
# server comes back, the request before this one is still at work (409); so it is kept.
_REFUSALS = frozenset({400, 413, 415, 422})


class PostOutcome(Enum):
    """What to do with an LDO after an answer."""

    SENT = auto()
    REFUSED = auto()
    LATER = auto()


def verdict_of(status: int) -> PostOutcome:
    """Return what an answer's status says; 202 is as good as 200, for then the LDO is durable too."""
    if 200 <= status < 300:
        return PostOutcome.SENT
    return PostOutcome.REFUSED if status in _REFUSALS else PostOutcome.LATER


def delay_s(failures: int, retry_after: str | None, spread: float) -> float:
    """Return how long to wait after so many failures in a row; `spread`, from 0 to 1, keeps edge servers apart."""
    asked = float(retry_after) if retry_after is not None and retry_after.isdecimal() else 0.0
    return Backoff(DELAY_S, DELAY_S_MAX).delay_s(failures, jitter=spread, at_least_s=asked)


def metadata_of(
    ldo_id: str,
    sensor_data: Mapping[str, Any] | None,
    context: Mapping[str, Any] | None,
    prediction: Mapping[str, Any] | None,
    *,
    now_s: float,
) -> bytes:
    """Return an LDO's metadata as JSON. It says when it was captured, for it may arrive much later.

    Arrays and numbers of NumPy are written as what they hold.

    Raises:
        TypeError, ValueError: something in it is not JSON, or it is too large.
    """
    said: dict[str, Any] = {
        "ldo_id": ldo_id,
        "sensor_data": sensor_data or {},
        "context": context or {},
        "prediction": prediction or {},
    }
    if not _TIMES & said["context"].keys():
        said["captured_at"] = now_s
    data = json.dumps(said, allow_nan=False, ensure_ascii=False, default=_plain).encode()
    if len(data) > METADATA_BYTES_MAX:
        raise ValueError(f"an LDO says at most {METADATA_BYTES_MAX} bytes")
    return data


def form_head(boundary: str, metadata: bytes, *, has_video: bool) -> bytes:
    """Return a multipart body up to where the video begins."""
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
    """Return what ends a multipart body."""
    return b"\r\n--" + boundary.encode() + b"--\r\n"


def _plain(value: Any) -> Any:
    found = value.tolist() if hasattr(value, "tolist") else None
    if found is None or (isinstance(found, float) and not math.isfinite(found)):
        raise TypeError(f"{type(value).__name__} is not JSON")
    return found
