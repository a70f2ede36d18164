"""A synthetic production line, where parts with QR codes pass a camera on a belt, and the readings of its devices.

The same seed renders the same line. Pictures are BGR arrays of `HEIGHT` by `WIDTH` pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import av
import cv2
import numpy as np
import segno
from av.error import FFmpegError

from headrace.producers.clips import cut
from headrace.producers.video_frames import Pixels, VideoFrame, to_jpeg
from headrace.runtime.errors import Exit, HeadraceError

WIDTH = 640
HEIGHT = 360
PICTURES_PER_S = 10
MODEL = "surface-check-2.1"

_SPACING = 230  # pixels from one part to the next
_SPEED = 14  # pixels that the belt moves from one picture to the next
_PART_WIDTH, _PART_HEIGHT = 156, 190
_PART_TOP = 92
_BELT_TOP, _BELT_BOTTOM = 76, 298
_MODULE_PIXELS = 4  # of the QR code: 21 modules and a quiet zone of 4 on each side are 116 pixels
_SCRATCHED_SHARE = 0.15
_NOISE = 6  # grey levels: enough to make each picture differ as a sensor's would, too little to hide a code
_CLIP_S = 5
_CLIP_EVERY_PICTURES = 2  # half the frame rate: encoding clips costs the most CPU in a demo
_JPEG_QUALITY = 88


@dataclass(frozen=True, slots=True)
class LinePart:
    """A part on the belt; `code` is the text of its QR code."""

    number: int
    code: str
    scratched: bool


class Line:
    """The line of one site; `series` is the letter in the codes of its parts, `label` is drawn into every picture."""

    def __init__(self, series: str, label: str, *, seed: int) -> None:
        """Prepare the line; nothing is rendered yet."""
        self._series = series
        self._label = label
        self._seed = seed
        random = Random(f"{seed} {series}")  # noqa: S311 - a picture, not a secret
        self._first_number = random.randrange(1, 900_000)
        levels = np.random.default_rng(random.randrange(2**32))
        self._noise = levels.integers(0, 2 * _NOISE, (HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)
        self._belt = _belt()

    def part(self, index: int) -> LinePart:
        """Return the `index`-th part."""
        scratched = Random(f"{self._seed} {self._series} {index}").random() < _SCRATCHED_SHARE  # noqa: S311
        number = self._first_number + index
        return LinePart(number, f"PART-{self._series}-{number:06d}", scratched)

    def part_at(self, picture: int) -> LinePart:
        """Return the part that entered the picture most recently."""
        return self.part(picture * _SPEED // _SPACING)

    def picture(self, index: int) -> Pixels:
        """Return the `index`-th picture."""
        moved = index * _SPEED
        image = self._belt.copy()
        stripes = np.arange(moved % 40, WIDTH, 40)
        image[_BELT_BOTTOM - 12 : _BELT_BOTTOM, stripes] = 90
        for number in range(moved // _SPACING, -1, -1):
            left = moved - number * _SPACING - _PART_WIDTH
            if left >= WIDTH:
                break
            _paste(image, _picture_of(self.part(number)), left)
        caption = f"{self._label}  {index:06d}"
        cv2.putText(image, caption, (12, 34), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (235, 235, 235), 1, cv2.LINE_AA)
        shift = index * 37 % WIDTH
        return np.asarray(cv2.subtract(image, self._noise[:, shift : shift + WIDTH]), dtype=np.uint8)


def _belt() -> Pixels:
    image = np.full((HEIGHT, WIDTH, 3), 58, dtype=np.uint8)
    image[_BELT_TOP:_BELT_BOTTOM] = np.linspace(70, 118, _BELT_BOTTOM - _BELT_TOP).astype(np.uint8)[:, None, None]
    return image


def _paste(image: Pixels, part: Pixels, left: int) -> None:
    begin, end = max(left, 0), min(left + _PART_WIDTH, WIDTH)
    if begin < end:
        image[_PART_TOP : _PART_TOP + _PART_HEIGHT, begin:end] = part[:, begin - left : end - left]


@lru_cache(maxsize=64)
def _picture_of(part: LinePart) -> Pixels:
    image = np.full((_PART_HEIGHT, _PART_WIDTH, 3), 214, dtype=np.uint8)
    cv2.rectangle(image, (0, 0), (_PART_WIDTH - 1, _PART_HEIGHT - 1), (120, 130, 140), 3)
    code = _qr(part.code)
    side = code.shape[0]
    left = (_PART_WIDTH - side) // 2
    image[14 : 14 + side, left : left + side] = code[:, :, None]
    cv2.putText(image, part.code, (14, 156), cv2.FONT_HERSHEY_SIMPLEX, 0.46, (30, 30, 30), 1, cv2.LINE_AA)
    if part.scratched:
        cv2.line(image, (18, 182), (138, 164), (40, 40, 170), 2, cv2.LINE_AA)
    return image


def _qr(text: str) -> Pixels:
    modules = np.array(
        [list(row) for row in segno.make(text, version=1, error="m", micro=False).matrix], dtype=np.uint8
    )
    light = np.pad((1 - modules) * 255, 4, constant_values=255)
    return np.kron(light, np.ones((_MODULE_PIXELS, _MODULE_PIXELS), dtype=np.uint8)).astype(np.uint8)


def draw(line: Line, folder: Path, *, pictures: int) -> list[Path]:
    """Render the pictures of the line as JPEG files, ordered by name."""
    folder.mkdir(parents=True)
    paths = [folder / f"{index:06d}.jpg" for index in range(pictures)]
    for index, path in enumerate(paths):
        path.write_bytes(to_jpeg(line.picture(index), _JPEG_QUALITY))
    return paths


def clip_of(pictures: Sequence[Path], last: int) -> bytes | None:
    """Return an MP4 of the 5 seconds up to the `last`-th picture; None if there is no picture yet."""
    clip = pictures[max(0, last - _CLIP_S * PICTURES_PER_S) : last + 1 : _CLIP_EVERY_PICTURES]
    period_us = _CLIP_EVERY_PICTURES * 1_000_000 // PICTURES_PER_S
    return cut([VideoFrame(path.read_bytes(), index * period_us, 0) for index, path in enumerate(clip)])


def frames_in(video: Path) -> int:
    """Return the number of frames in a video file.

    Raises:
        HeadraceError: the file does not exist or is not a video.
    """
    if not video.is_file():
        raise _unusable(video, "no such file")
    try:
        with av.open(f"file:{video}", options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise _unusable(video, "it has no video track")
            stream = container.streams.video[0]
            # Some containers do not store the number of frames; each packet holds one frame.
            return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    except (FFmpegError, OSError) as error:
        raise _unusable(video, error.strerror or str(error)) from None


def _unusable(video: Path, why: str) -> HeadraceError:
    return HeadraceError(
        "video_unreadable",
        f"the video cannot be used: {why}",
        where=str(video),
        hint="pass the path of a video file, or omit --video to use a synthetic line",
        exit_code=Exit.USAGE,
    )


@dataclass(frozen=True, slots=True)
class Readings:
    """The three parts of an LDO."""

    sensor_data: dict[str, Any]
    context: dict[str, Any]
    prediction: dict[str, Any]


def readings_of(part: LinePart, random: Random) -> Readings:
    """Return plausible readings for a part: temperature in °C, vibration in mm/s, force in N."""
    extra_c = 6.0 if part.scratched else 0.0
    confidence = random.uniform(0.81, 0.995)
    return Readings(
        sensor_data={
            "temperature_c": round(random.gauss(41.5 + extra_c, 0.8), 2),
            "vibration_mm_s": round(abs(random.gauss(2.8 if part.scratched else 1.1, 0.3)), 3),
            "force_n": [round(random.gauss(118.0, 2.5), 1) for _ in range(16)],
        },
        context={"component": part.code, "recipe": "R-17", "shift": "early"},
        prediction={
            "model": MODEL,
            "label": "scratched" if part.scratched else "good",
            "confidence": round(confidence, 4),
        },
    )
