"""Clips cut from the frames of the last seconds."""

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import av
import cv2
import numpy as np

from headrace.producers.delivery import Delivery
from headrace.producers.video_frames import Pixels, VideoFrame, from_image
from headrace.runtime.errors import HeadraceError
from headrace.schemas.limits import MIB

CLIP_S = 5.0
RING_BYTES_MAX = 64 * MIB
CLIP_SIDE_PIXELS_MAX = 1920  # larger frames are scaled down: a clip shows what happened, the frames hold the detail

_TICKS_PER_S = 90_000
# One thread, because x264's choices depend on how many there are: the same frames give the same bytes on any machine.
_H264 = {"preset": "veryfast", "crf": "23", "threads": "1"}
_MP4 = {"movflags": "+faststart", "fflags": "+bitexact"}  # the header first, and no time of making


class FrameRing:
    """The frames of the last `seconds`, at most `bytes_max` in all."""

    def __init__(self, seconds: float = CLIP_S, bytes_max: int = RING_BYTES_MAX) -> None:
        """Start empty."""
        self._keep_us = round(seconds * 1_000_000)
        self._bytes_max = bytes_max
        self._bytes = 0
        self._video_frames: deque[VideoFrame] = deque()

    def add(self, video_frame: VideoFrame) -> None:
        """Keep a frame without its pixels, and drop the oldest beyond the limits."""
        self._video_frames.append(VideoFrame(video_frame.body, video_frame.at_us, video_frame.captured_at_us))
        self._bytes += len(video_frame.body)
        while self._bytes > self._bytes_max or self._video_frames[0].at_us < video_frame.at_us - self._keep_us:
            self._bytes -= len(self._video_frames.popleft().body)
            if not self._video_frames:
                return

    def between(self, from_us: int, to_us: int) -> tuple[VideoFrame, ...]:
        """Return the frames between two times, both included."""
        return tuple(video_frame for video_frame in self._video_frames if from_us <= video_frame.at_us <= to_us)


def cut(video_frames: Iterable[VideoFrame]) -> bytes | None:
    """Return an MP4 in H.264 with its header first; None if no frame can be decoded.

    The same frames give the same bytes. All frames are scaled to the size of the first.
    """
    decoded = ((video_frame, from_image(video_frame.body)) for video_frame in video_frames)
    showing = ((video_frame, pixels) for video_frame, pixels in decoded if pixels is not None)
    first = next(showing, None)
    if first is None:
        return None
    # FFmpeg moves the header to the front by reading the file again, which needs a file on disk.
    with tempfile.TemporaryDirectory(prefix="headrace-clip-") as folder:
        path = Path(folder) / "clip.mp4"
        with av.open(path, "w", format="mp4", options=_MP4) as container:
            stream = container.add_stream("libx264", rate=_TICKS_PER_S, options=_H264)
            stream.width, stream.height = _size(first[1])
            stream.pix_fmt = "yuv420p"
            last = -1
            for video_frame, pixels in (first, *showing):
                ticks = (video_frame.at_us - first[0].at_us) * _TICKS_PER_S // 1_000_000
                if ticks <= last:
                    continue
                last = ticks
                frame = av.VideoFrame.from_ndarray(_i420(pixels, stream.width, stream.height), format="yuv420p")
                frame.pts = ticks
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path.read_bytes()


def _i420(pixels: Pixels, width: int, height: int) -> Pixels:
    """Return the pixels in the encoder's colour space and size.

    OpenCV does it in integers, whereas FFmpeg's scaler shares the work between threads in ways of its own.
    """
    if pixels.shape[:2] != (height, width):
        pixels = np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420), dtype=np.uint8)


def _size(pixels: Pixels) -> tuple[int, int]:
    """Return width and height within CLIP_SIDE_PIXELS_MAX, both even as H.264 requires."""
    height, width = pixels.shape[:2]
    scale = min(1.0, CLIP_SIDE_PIXELS_MAX / max(height, width))
    return max(2, round(width * scale) & ~1), max(2, round(height * scale) & ~1)


CLIPS_WAITING_MAX = 4  # clips being cut; beyond it the frames wait, so memory stays bounded
_CLIP_US = round(CLIP_S * 1_000_000)

# Cuts a clip from frames and publishes it; the text is what the clip is about.
Perform: TypeAlias = Callable[[Sequence[VideoFrame], str | None], Delivery]


@dataclass(frozen=True, slots=True)
class _ClipRequest:
    """A requested clip around a time; `delivery` gets the result of the clip's own delivery."""

    at_us: int
    about: str | None
    delivery: Delivery


class Clipper:
    """Keeps the last frames and cuts each requested clip once its second half was read.

    Clips are cut in a thread of their own, so that a live camera does not miss frames.
    """

    def __init__(self, perform: Perform) -> None:
        """Start without frames."""
        self._perform = perform
        self._ring = FrameRing()
        self._requests: list[_ClipRequest] = []
        self._last_us: int | None = None
        self._finished = False
        self._lock = threading.Lock()
        self._waiting_clips = threading.BoundedSemaphore(CLIPS_WAITING_MAX)
        self._cutter = ThreadPoolExecutor(1, "clips")

    def see(self, video_frame: VideoFrame) -> None:
        """Keep a frame for later clips, and cut the clips that are due."""
        with self._lock:
            self._ring.add(video_frame)
            self._last_us = video_frame.at_us
            due = [request for request in self._requests if request.at_us + _CLIP_US // 2 <= video_frame.at_us]
            self._requests = [request for request in self._requests if request not in due]
        self._hand_over(due)

    def request(self, about: str | None) -> Delivery:
        """Request a clip around the newest frame; may be called from any thread.

        After `finish` it is the last CLIP_S seconds, and this call blocks until they are cut.

        Raises:
            HeadraceError: no_frames_yet.
        """
        with self._lock:
            if self._last_us is None:
                raise HeadraceError(
                    "no_frames_yet", "there is no frame to cut a clip from", hint="run the camera first"
                )
            request = _ClipRequest(self._last_us, about, Delivery())
            request.delivery.set_running_or_notify_cancel()
            if not self._finished:
                self._requests.append(request)
                return request.delivery
            video_frames = self._ring.between(self._last_us - _CLIP_US, self._last_us)
        self._fulfil(request, video_frames)
        return request.delivery

    def finish(self) -> None:
        """Cut the requested clips from the frames so far and wait until they are published; may be repeated."""
        with self._lock:
            self._finished = True
            due, self._requests = self._requests, []
        self._hand_over(due)
        self._cutter.shutdown()

    def _hand_over(self, due: Sequence[_ClipRequest]) -> None:
        for request in due:
            video_frames = self._ring.between(request.at_us - _CLIP_US // 2, request.at_us + _CLIP_US // 2)
            self._waiting_clips.acquire()
            self._cutter.submit(self._fulfil, request, video_frames).add_done_callback(
                lambda _: self._waiting_clips.release()
            )

    def _fulfil(self, request: _ClipRequest, video_frames: Sequence[VideoFrame]) -> None:
        try:
            made = self._perform(video_frames, request.about)
        except Exception as error:  # noqa: BLE001 - the requester gets any error
            request.delivery.set_exception(error)
        else:
            made.add_done_callback(lambda done: _follow(request.delivery, done))


def _follow(requested: Delivery, made: Delivery) -> None:
    if error := made.exception():
        requested.set_exception(error)
    else:
        requested.set_result(made.result())
