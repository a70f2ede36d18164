"""What a capture request asks for, the states it passes through, and its progress. No I/O.

A request is requested, connecting, recording, uploading, and finally ingested, or failed with a reason. It returns from
recording to connecting while the worker reconnects to a lost stream, and from each active state to requested when its
worker stops or misses its lease.
"""

from dataclasses import asdict, dataclass
from enum import StrEnum

import orjson


class CaptureMode(StrEnum):
    """How a camera is captured."""

    SINGLE_FRAME = "single_frame"
    BURST = "burst"
    CONTINUOUS = "continuous"
    CLIP = "clip"


FPS_MIN = 0.1
FPS_MAX = 60.0
DURATION_S_MIN = 1.0
DURATION_S_MAX = 3600.0
FRAME_COUNT_MAX = 1000
CLIP_S_MAX = 60.0  # the frames of a clip are held in memory until it is encoded

_DEFAULT_FPS = {
    CaptureMode.SINGLE_FRAME: 1.0,
    CaptureMode.BURST: 5.0,
    CaptureMode.CONTINUOUS: 1.0,
    CaptureMode.CLIP: 10.0,
}
_BURST_FRAMES = 10
_CONTINUOUS_S = 60.0
_CLIP_S = 5.0
_SLOWDOWN_MAX = 10.0  # a camera may deliver so many times slower than requested
_FEW_FRAMES_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePlan:
    """What to capture: at most `frame_count` frames (0: unlimited) in `duration_s` seconds of recording."""

    url: str
    mode: CaptureMode
    fps: float
    duration_s: float
    frame_count: int
    standing: bool = False
    """Whether a further request follows this one, until the camera is removed."""

    def as_json(self) -> str:
        """Return the plan as the request's row stores it."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "CapturePlan":
        """Read what `as_json` wrote."""
        fields = orjson.loads(text)
        return cls(**{**fields, "mode": CaptureMode(fields["mode"])})


def plan_for(
    url: str,
    mode: CaptureMode,
    *,
    fps: float | None = None,
    duration_s: float | None = None,
    frame_count: int | None = None,
) -> CapturePlan:
    """Return the plan for a caller's parameters; a parameter that the mode does not use is ignored."""
    rate = fps or _DEFAULT_FPS[mode]
    match mode:
        case CaptureMode.SINGLE_FRAME:
            return CapturePlan(url=url, mode=mode, fps=rate, duration_s=_FEW_FRAMES_S, frame_count=1)
        case CaptureMode.BURST:
            frames = frame_count or _BURST_FRAMES
            limit_s = min(DURATION_S_MAX, duration_s or _FEW_FRAMES_S + _SLOWDOWN_MAX * frames / rate)
            return CapturePlan(url=url, mode=mode, fps=rate, duration_s=limit_s, frame_count=frames)
        case CaptureMode.CONTINUOUS:
            return CapturePlan(url=url, mode=mode, fps=rate, duration_s=duration_s or _CONTINUOUS_S, frame_count=0)
        case CaptureMode.CLIP:
            return CapturePlan(url=url, mode=mode, fps=rate, duration_s=duration_s or _CLIP_S, frame_count=0)


def standing_plan(url: str, fps: float | None) -> CapturePlan:
    """Return the plan of a camera that is captured until it is removed."""
    rate = fps or _DEFAULT_FPS[CaptureMode.CONTINUOUS]
    return CapturePlan(
        url=url, mode=CaptureMode.CONTINUOUS, fps=rate, duration_s=DURATION_S_MAX, frame_count=0, standing=True
    )


class CaptureState(StrEnum):
    """The state of a capture request."""

    REQUESTED = "requested"
    CONNECTING = "connecting"
    RECORDING = "recording"
    UPLOADING = "uploading"
    INGESTED = "ingested"
    FAILED = "failed"


ACTIVE_STATES = frozenset({CaptureState.CONNECTING, CaptureState.RECORDING, CaptureState.UPLOADING})
FINAL_STATES = frozenset({CaptureState.INGESTED, CaptureState.FAILED})

PREDECESSORS = {
    CaptureState.REQUESTED: ACTIVE_STATES,
    # From recording: the stream was lost.
    CaptureState.CONNECTING: frozenset({CaptureState.REQUESTED, CaptureState.RECORDING}),
    CaptureState.RECORDING: frozenset({CaptureState.CONNECTING}),
    # From connecting: the previous worker had captured every frame, or the camera did not come back after some.
    CaptureState.UPLOADING: frozenset({CaptureState.RECORDING, CaptureState.CONNECTING}),
    CaptureState.INGESTED: frozenset({CaptureState.UPLOADING}),
    CaptureState.FAILED: frozenset({CaptureState.REQUESTED, *ACTIVE_STATES}),
}
"""The states from which each state may be entered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureProgress:
    """How far a capture has come. `worker` is the lease holder, by the name that each worker generates for itself."""

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
        """Return the progress as the request's row stores it."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "CaptureProgress":
        """Read what `as_json` wrote, or an empty object."""
        return cls(**orjson.loads(text))
