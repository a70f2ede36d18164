"""The states of a request for a capture: which may follow which, and what is known at each change. No I/O.

A request is requested, connecting, recording, uploading, and in the end ingested, or failed with a reason. It goes from
recording back to connecting while a lost stream is connected to again, and from each of these back to requested where
its worker stopped or fell silent.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum

import orjson


class CaptureState(StrEnum):
    """Where a request stands."""

    REQUESTED = "requested"
    CONNECTING = "connecting"
    RECORDING = "recording"
    UPLOADING = "uploading"
    INGESTED = "ingested"
    FAILED = "failed"


RUNNING = frozenset({CaptureState.CONNECTING, CaptureState.RECORDING, CaptureState.UPLOADING})
FINAL = frozenset({CaptureState.INGESTED, CaptureState.FAILED})

BEFORE = {
    CaptureState.REQUESTED: RUNNING,
    # From recording: the stream was lost.
    CaptureState.CONNECTING: frozenset({CaptureState.REQUESTED, CaptureState.RECORDING}),
    CaptureState.RECORDING: frozenset({CaptureState.CONNECTING}),
    # From connecting: the worker before had every frame already, or the camera stayed away after some.
    CaptureState.UPLOADING: frozenset({CaptureState.RECORDING, CaptureState.CONNECTING}),
    CaptureState.INGESTED: frozenset({CaptureState.UPLOADING}),
    CaptureState.FAILED: frozenset({CaptureState.REQUESTED, *RUNNING}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureProgress:
    """What is known of a capture. `worker` is the one that has it, by a name that each makes for itself."""

    worker: str = ""
    reconnects: int = 0
    frames_asked: int = 0
    frames_got: int = 0
    frames_published: int = 0
    duration_asked_s: float = 0.0
    duration_obtained_s: float = 0.0
    codec: str | None = None
    width: int | None = None
    height: int | None = None
    last_error: str | None = None

    def as_json(self) -> str:
        """Return it as it is kept."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "CaptureProgress":
        """Read what `as_json` wrote, or nothing."""
        return cls(**orjson.loads(text))
