"""The frames of an RTSP stream, read on the machine that publishes them."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
from av.error import FFmpegError

from headrace.producers.video_frames import FrameSampler, VideoFrame, VideoFrames, to_jpeg, upright
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.limits import FRAME_PIXELS_MAX

SCHEMES = ("rtsp://", "rtsps://")
_OPEN_S_MAX = 10.0
_READ_S_MAX = 20.0
# A camera's description may name no other protocol, such as a file of this machine.
_OPTIONS = {"rtsp_transport": "tcp", "protocol_whitelist": "rtsp,rtsps,rtp,tcp,tls,crypto"}


def is_stream(source: object) -> bool:
    """Return whether a source is the URL of an RTSP stream."""
    return isinstance(source, str) and source.lower().startswith(SCHEMES)


def shown(url: str) -> str:
    """Return a stream's URL without login, path and query, which may hold secrets."""
    scheme, _, rest = url.partition("://")
    host = urlsplit(f"//{rest.rpartition('@')[2]}").netloc
    return f"{scheme}://{host}"


def read_stream(url: str, *, fps: float | None, jpeg_quality: int, clock_us: Callable[[], int]) -> VideoFrames:
    """Decode a stream until it ends; each frame becomes a JPEG, captured when it was decoded.

    Raises:
        HeadraceError: camera_unavailable; the stream cannot be opened, or ended. The frames before are yielded.
    """
    sampler, began_us = FrameSampler(fps), clock_us()
    try:
        with av.open(url, options=_OPTIONS, timeout=(_OPEN_S_MAX, _READ_S_MAX)) as container:
            if not container.streams.video:
                raise _unavailable(url, "the stream has no video")
            for frame in _frames(container):
                now_us = clock_us()
                if frame.width * frame.height > FRAME_PIXELS_MAX:
                    raise _unavailable(url, f"frames of {frame.width} x {frame.height} pixels are too large")
                at_us = max(0, now_us - began_us)
                if sampler.takes(at_us):
                    pixels = upright(np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8), frame)
                    yield VideoFrame(to_jpeg(pixels, jpeg_quality), at_us, now_us, pixels)
    except (FFmpegError, OSError) as error:
        raise _unavailable(url, error.strerror or type(error).__name__) from None
    raise _unavailable(url, "it delivers no more frames")


def _frames(container: Any) -> Any:
    return container.decode(container.streams.video[0])


def _unavailable(url: str, why: str) -> HeadraceError:
    return HeadraceError(
        "camera_unavailable",
        f"the stream cannot be read: {why}",
        where=shown(url),
        hint="`headrace camera test URL` names the stage that fails; `headrace camera add` captures it for good",
        exit_code=Exit.UNREACHABLE,
    )
