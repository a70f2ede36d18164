"""Sources of a camera's frames: image files as they are, a video file, or a camera of this machine."""

import struct
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import av
import cv2
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from headrace.producers.bodies import attributes_of
from headrace.runtime.errors import HeadraceError
from headrace.runtime.pictures import decode_upright, inspect_picture
from headrace.schemas.events import TimeFrom
from headrace.schemas.limits import FRAME_BYTES_MAX, FRAME_PIXELS_MAX
from headrace.schemas.media.formats import SNIFF_BYTES, format_of
from headrace.schemas.media_probe import image_header, image_header_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import is_plausible_time

IMAGES_PER_S = 1.0  # of a folder, without `fps`
_OWN_RATE = 25.0  # of a video whose frames have no times

Pixels: TypeAlias = NDArray[np.uint8]
VideoFrames: TypeAlias = "Generator[VideoFrame | Skipped, None, None]"


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One encoded image; `pixels` (BGR) are set if they were decoded anyway.

    `at_us` starts at 0 and never decreases; clips and appearances of codes are measured by it. `attributes` are its
    record's, as JSON.
    """

    body: bytes
    at_us: int
    captured_at_us: int
    pixels: Pixels | None = None
    attributes: bytes = b"{}"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was not published, and why."""

    name: str
    why: str


class FrameSampler:
    """Selects `fps` frames per second from a faster source; None selects all."""

    def __init__(self, fps: float | None) -> None:
        """Begin at the first moment."""
        self._period_us = 1_000_000 / fps if fps else 0.0
        self._next_us = 0.0

    def takes(self, at_us: int) -> bool:
        """Return whether the frame at this time is selected; times never decrease."""
        if at_us < self._next_us:
            return False
        # On a grid, so that rounding errors do not add up; frames after a gap do not come faster to make up for it.
        while self._period_us and self._next_us <= at_us:
            self._next_us += self._period_us
        return True


def image_files(folder: Path) -> list[Path]:
    """Return the files of a folder and its sub-folders, sorted by name, without hidden ones."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in files if not any(part[0] == "." for part in path.relative_to(folder).parts))


def read_images(paths: Sequence[Path], *, fps: float | None, clock_us: Callable[[], int]) -> VideoFrames:
    """Read image files unchanged; the capture time is that of their EXIF, else the file's modification time."""
    period_us = 1_000_000 / (fps or IMAGES_PER_S)
    taken = 0
    for path in paths:
        try:
            body = _read_image(path)
            picture = inspect_picture(body, image_header_of(body))
        except RejectedError as rejected:
            yield Skipped(str(path), rejected.reason)
            continue
        except OSError as error:
            yield Skipped(str(path), error.strerror or str(error))
            continue
        captured_at_us, time_from = picture.captured_at_us, TimeFrom.EXIF
        if not is_plausible_time(captured_at_us, clock_us()):
            captured_at_us, time_from = written_at_us(path, clock_us), TimeFrom.FILE
        attributes = attributes_of({"exif": picture.exif, **picture.details, "captured_at_from": time_from})
        yield VideoFrame(body, round(taken * period_us), captured_at_us, None, attributes)
        taken += 1


def read_video(path: Path, *, fps: float | None, jpeg_quality: int, clock_us: Callable[[], int]) -> VideoFrames:
    """Decode a video file; each frame becomes a JPEG, upright, with the same bytes every time.

    The file's first bytes decide whether it is a video, not FFmpeg. The capture time is the file's modification time
    plus the frame's time within the video.

    Raises:
        HeadraceError: video_unreadable; the frames before the fault are yielded.
    """
    with path.open("rb") as file:
        file_format = format_of(file.read(SNIFF_BYTES))
    if not file_format.is_video:
        raise _unreadable(path, f"it is not taken: {file_format.name}")
    began_us = written_at_us(path, clock_us)
    sampler = FrameSampler(fps)
    try:
        # Only this file: a playlist disguised as a video must not open URLs.
        with av.open(f"file:{path}", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise _unreadable(path, "the file has no video track")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or _OWN_RATE)
            first_us: int | None = None
            at_us = 0
            for index, frame in enumerate(container.decode(stream)):
                now_us = round(frame.time * 1_000_000) if frame.time is not None else round(index / rate * 1_000_000)
                first_us = now_us if first_us is None else first_us
                at_us = max(at_us, now_us - first_us)
                if frame.width * frame.height > FRAME_PIXELS_MAX:
                    raise _unreadable(path, f"frames of {frame.width} x {frame.height} pixels are too large")
                if sampler.takes(at_us):
                    pixels = upright(np.asarray(frame.to_ndarray(format="bgr24"), dtype=np.uint8), frame)
                    yield VideoFrame(to_jpeg(pixels, jpeg_quality), at_us, began_us + at_us, pixels)
    except (FFmpegError, OSError) as error:
        raise _unreadable(path, error.strerror or str(error)) from None


def read_camera(index: int, *, fps: float | None, jpeg_quality: int, clock_us: Callable[[], int]) -> VideoFrames:
    """Read a camera of this machine through OpenCV until it ends; each frame becomes a JPEG.

    Raises:
        HeadraceError: camera_unavailable; the camera cannot be opened or stops delivering.
    """
    # The error below says more than OpenCV's own output.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(index)
    try:
        if not camera.isOpened():
            raise _no_camera(index, "it cannot be opened")
        if fps:
            camera.set(cv2.CAP_PROP_FPS, fps)
        sampler = FrameSampler(fps)
        began_ns = time.monotonic_ns()
        while True:
            good, pixels = camera.read()
            if not good:
                raise _no_camera(index, "it delivers no more frames")
            at_us = (time.monotonic_ns() - began_ns) // 1000
            if sampler.takes(at_us):
                shown = np.asarray(pixels, dtype=np.uint8)
                yield VideoFrame(to_jpeg(shown, jpeg_quality), at_us, clock_us(), shown)
    finally:
        camera.release()


def to_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode BGR pixels; the same pixels give the same bytes."""
    good, encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert good  # OpenCV raises where it cannot; False does not happen for 8-bit BGR
    return encoded.tobytes()


def from_image(body: bytes) -> Pixels | None:
    """Decode an image to upright BGR; None if it is damaged or exceeds FRAME_PIXELS_MAX."""
    header = image_header(body)
    if header is None or header.width * header.height > FRAME_PIXELS_MAX:
        return None
    try:
        image = decode_upright(body, header, "RGB")
    except RejectedError:
        return None
    return np.asarray(cv2.cvtColor(np.asarray(image, dtype=np.uint8), cv2.COLOR_RGB2BGR), dtype=np.uint8)


def upright(pixels: Pixels, frame: av.VideoFrame) -> Pixels:
    """Return a decoded frame as its display matrix shows it: turned by a multiple of 90 degrees, or mirrored."""
    data: Any = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return pixels
    # x' = a x + c y and y' = b x + d y; the third number of each row is for perspectives.
    a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
    swaps = abs(b) > abs(a)
    shown = pixels.transpose(1, 0, 2) if swaps else pixels
    shown = shown[:, ::-1] if (c if swaps else a) < 0 else shown
    shown = shown[::-1] if (b if swaps else d) < 0 else shown
    return np.ascontiguousarray(shown)


def _read_image(path: Path) -> bytes:
    if path.stat().st_size > FRAME_BYTES_MAX:
        raise RejectedError(RejectCode.TOO_LARGE, f"the file is larger than {FRAME_BYTES_MAX} bytes")
    return path.read_bytes()


def written_at_us(path: Path, clock_us: Callable[[], int]) -> int:
    """Return a file's modification time, or now if an event with that time would be rejected."""
    # Archives and reproducible builds set times before 2000; a wrong clock may have set one in the future.
    written_us, now_us = path.stat().st_mtime_ns // 1000, clock_us()
    return written_us if is_plausible_time(written_us, now_us) else now_us


def _unreadable(path: Path, why: str) -> HeadraceError:
    return HeadraceError(
        "video_unreadable", f"the video cannot be read: {why}", where=str(path), hint="inspect it with `ffprobe`"
    )


def _no_camera(index: int, why: str) -> HeadraceError:
    return HeadraceError(
        "camera_unavailable",
        f"camera {index} is not available: {why}",
        where=f"/dev/video{index}",
        hint="check that it is connected and that no other program uses it",
    )
