"""What a request asks for, with the defaults of its mode. No I/O."""

from dataclasses import asdict, dataclass
from enum import StrEnum

import orjson


class Mode(StrEnum):
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
CLIP_S_MAX = 60.0  # its frames are held in memory until they are a clip

_FPS = {Mode.SINGLE_FRAME: 1.0, Mode.BURST: 5.0, Mode.CONTINUOUS: 1.0, Mode.CLIP: 10.0}
_BURST_FRAMES = 10
_CONTINUOUS_S = 60.0
_CLIP_S = 5.0
_SLOW = 10.0  # a camera may deliver so many times slower than it was asked to
_DURATION_OF_FEW_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePlan:
    """What is to be captured: at most `frame_count` frames (0: any number), in `duration_s` seconds of recording."""

    url: str
    mode: Mode
    fps: float
    duration_s: float
    frame_count: int

    def as_json(self) -> str:
        """Return it as it is kept with its request."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> "CapturePlan":
        """Read what `as_json` wrote."""
        said = orjson.loads(text)
        return cls(**{**said, "mode": Mode(said["mode"])})


def plan_for(
    url: str, mode: Mode, *, fps: float | None = None, duration_s: float | None = None, frame_count: int | None = None
) -> CapturePlan:
    """Return the plan for what a caller said; what does not matter in a mode is passed over."""
    rate = fps or _FPS[mode]
    match mode:
        case Mode.SINGLE_FRAME:
            return CapturePlan(url=url, mode=mode, fps=rate, duration_s=_DURATION_OF_FEW_S, frame_count=1)
        case Mode.BURST:
            frames = frame_count or _BURST_FRAMES
            longest_s = min(DURATION_S_MAX, duration_s or _DURATION_OF_FEW_S + _SLOW * frames / rate)
            return CapturePlan(url=url, mode=mode, fps=rate, duration_s=longest_s, frame_count=frames)
        case Mode.CONTINUOUS:
            return CapturePlan(url=url, mode=mode, fps=rate, duration_s=duration_s or _CONTINUOUS_S, frame_count=0)
        case Mode.CLIP:
            return CapturePlan(url=url, mode=mode, fps=rate, duration_s=duration_s or _CLIP_S, frame_count=0)
