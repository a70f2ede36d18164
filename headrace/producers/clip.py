"""Clips cut from the frames of the last seconds."""

import tempfile
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import av
import cv2
import numpy as np

from headrace.producers.video_frames import Pixels, VideoFrame, from_image
from headrace.schemas.limits import MIB

CLIP_S = 5.0
RING_BYTES_MAX = 64 * MIB
CLIP_SIDE_PIXELS_MAX = 1920  # larger frames are scaled down: a clip shows what happened, the frames hold the detail

_TICKS_PER_S = 90_000
# One thread, because x264's choices depend on how many there are: the same frames give the same bytes on any machine.
_H264 = {"preset": "veryfast", "crf": "23", "threads": "1"}
_MP4 = {"movflags": "+faststart", "fflags": "+bitexact"}  # the header first, and no time of making


class FrameRing:
    """The shots of the last `seconds`, and never more than `bytes_max` of them."""

    def __init__(self, seconds: float = CLIP_S, bytes_max: int = RING_BYTES_MAX) -> None:
        """Begin empty."""
        self._keep_us = round(seconds * 1_000_000)
        self._bytes_max = bytes_max
        self._bytes = 0
        self._shots: deque[VideoFrame] = deque()

    def add(self, shot: VideoFrame) -> None:
        """Keep a shot, without its pixels, and let go of those that are too old or too many."""
        self._shots.append(VideoFrame(shot.body, shot.at_us, shot.captured_at_us))
        self._bytes += len(shot.body)
        while self._bytes > self._bytes_max or self._shots[0].at_us < shot.at_us - self._keep_us:
            self._bytes -= len(self._shots.popleft().body)
            if not self._shots:
                return

    def between(self, from_us: int, to_us: int) -> tuple[VideoFrame, ...]:
        """Return the shots from one moment up to another."""
        return tuple(shot for shot in self._shots if from_us <= shot.at_us <= to_us)


def cut(shots: Iterable[VideoFrame]) -> bytes | None:
    """Return an MP4 of the shots, in H.264, its header first; None where no shot can be decoded.

    The same shots give the same bytes. All are shown in the size of the first.
    """
    decoded = ((shot, from_image(shot.body)) for shot in shots)
    showing = ((shot, pixels) for shot, pixels in decoded if pixels is not None)
    first = next(showing, None)
    if first is None:
        return None
    # The header moves to the front by reading the file again, which cannot be done in memory.
    with tempfile.TemporaryDirectory(prefix="headrace-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(path, "w", format="mp4", options=_MP4) as container:
            stream = container.add_stream("libx264", rate=_TICKS_PER_S, options=_H264)
            stream.width, stream.height = _size(first[1])
            stream.pix_fmt = "yuv420p"
            last = -1
            for shot, pixels in (first, *showing):
                ticks = (shot.at_us - first[0].at_us) * _TICKS_PER_S // 1_000_000
                if ticks <= last:
                    continue
                last = ticks
                frame = av.VideoFrame.from_ndarray(_i420(pixels, stream.width, stream.height), format="yuv420p")
                frame.pts = ticks
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def _i420(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return the pixels in the encoder's colours and size.

    OpenCV does it in integers, whereas FFmpeg's scaler shares the work between threads in ways of its own.
    """
    if pixels.shape[:2] != (height, width):
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420), dtype=np.uint8)


def _size(pixels: Pixels) -> tuple[int, int]:
    """Return width and height, both even, as H.264 wants them, and within the limit."""
    height, width = pixels.shape[:2]
    scale = min(1.0, CLIP_SIDE_PIXELS_MAX / max(height, width))
    return max(2, round(width * scale) & ~1), max(2, round(height * scale) & ~1)
