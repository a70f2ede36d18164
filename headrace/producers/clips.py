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


CLIPS_WAITING_MAX = 4  # that are being cut; with more, the frames wait, so memory stays bounded
_CLIP_US = round(CLIP_S * 1_000_000)

# Cuts a clip about something from shots and publishes it.
Perform: TypeAlias = Callable[[Sequence[VideoFrame], str | None], Delivery]


@dataclass(frozen=True, slots=True)
class _Wish:
    """A clip that was asked for, around a moment; `delivery` becomes what the clip's own delivery becomes."""

    at_us: int
    about: str | None
    delivery: Delivery


class Clipper:
    """Sees every shot and performs each wish once the second half of its clip has been seen.

    Clips are cut in one thread of its own, so that a live camera does not miss frames meanwhile.
    """

    def __init__(self, perform: Perform) -> None:
        """Begin with nothing seen."""
        self._perform = perform
        self._ring = FrameRing()
        self._wishes: list[_Wish] = []
        self._last_us: int | None = None
        self._finished = False
        self._lock = threading.Lock()
        self._room = threading.BoundedSemaphore(CLIPS_WAITING_MAX)
        self._cutter = ThreadPoolExecutor(1, "clips")

    def see(self, shot: VideoFrame) -> None:
        """Keep a shot for the clips that it may be part of, and perform the wishes that are due."""
        with self._lock:
            self._ring.add(shot)
            self._last_us = shot.at_us
            due = [wish for wish in self._wishes if wish.at_us + _CLIP_US // 2 <= shot.at_us]
            self._wishes = [wish for wish in self._wishes if wish not in due]
        self._hand_over(due)

    def wish(self, about: str | None) -> Delivery:
        """Ask for a clip around the newest shot; may be called from any thread.

        Once there will be no more shots, it is the last CLIP_S seconds, and this blocks until they are cut.

        Raises:
            HeadraceError: no_frames_yet.
        """
        with self._lock:
            if self._last_us is None:
                raise HeadraceError(
                    "no_frames_yet", "there is no frame to cut a clip from", hint="run the camera first"
                )
            wish = _Wish(self._last_us, about, Delivery())
            wish.delivery.set_running_or_notify_cancel()
            if not self._finished:
                self._wishes.append(wish)
                return wish.delivery
            shots = self._ring.between(self._last_us - _CLIP_US, self._last_us)
        self._fulfil(wish, shots)
        return wish.delivery

    def finish(self) -> None:
        """Perform what is still wished for with what there is, and wait until it is published; may be repeated."""
        with self._lock:
            self._finished = True
            due, self._wishes = self._wishes, []
        self._hand_over(due)
        self._cutter.shutdown()

    def _hand_over(self, due: Sequence[_Wish]) -> None:
        for wish in due:
            shots = self._ring.between(wish.at_us - _CLIP_US // 2, wish.at_us + _CLIP_US // 2)
            self._room.acquire()
            self._cutter.submit(self._fulfil, wish, shots).add_done_callback(lambda _: self._room.release())

    def _fulfil(self, wish: _Wish, shots: Sequence[VideoFrame]) -> None:
        try:
            made = self._perform(shots, wish.about)
        except Exception as error:  # noqa: BLE001 - whoever wished for the clip is told, whatever it was
            wish.delivery.set_exception(error)
        else:
            made.add_done_callback(lambda done: _follow(wish.delivery, done))


def _follow(wished: Delivery, made: Delivery) -> None:
    if error := made.exception():
        wished.set_exception(error)
    else:
        wished.set_result(made.result())
