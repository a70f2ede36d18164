"""A production line that exists only as pictures: parts with QR codes pass a camera on a belt.

The same seed shows the same line. Pictures are BGR arrays of `HEIGHT` by `WIDTH` pixels.
"""

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import TypeAlias

import cv2
import numpy as np
import segno
from numpy.typing import NDArray

Pixels: TypeAlias = NDArray[np.uint8]

WIDTH = 640
HEIGHT = 360

_SPACING = 230  # pixels from one part to the next
_SPEED = 14  # pixels that the belt moves from one picture to the next
_PART_WIDTH, _PART_HEIGHT = 156, 190
_PART_TOP = 92
_BELT_TOP, _BELT_BOTTOM = 76, 298
_MODULE_PIXELS = 4  # of the QR code: 21 modules and a quiet zone of 4 on each side are 116 pixels
_SCRATCHED_SHARE = 0.15
_NOISE = 6  # grey levels: enough to make each picture differ as a sensor's would, too little to hide a code


@dataclass(frozen=True, slots=True)
class LinePart:
    """One part on the belt; `code` is what its QR code says."""

    number: int
    code: str
    scratched: bool


class Line:
    """The line of one site; `series` is the letter in its parts' codes, `label` is written into every picture."""

    def __init__(self, series: str, label: str, *, seed: int) -> None:
        """Set the line up; nothing is drawn yet."""
        self._series = series
        self._label = label
        self._seed = seed
        random = Random(f"{seed} {series}")  # noqa: S311 - a picture, not a secret
        self._first_number = random.randrange(1, 900_000)
        levels = np.random.default_rng(random.randrange(2**32))
        self._noise = levels.integers(0, 2 * _NOISE, (HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)
        self._belt = _belt()

    def part(self, index: int) -> LinePart:
        """Return the part that is the `index`-th to come past."""
        scratched = Random(f"{self._seed} {self._series} {index}").random() < _SCRATCHED_SHARE  # noqa: S311
        number = self._first_number + index
        return LinePart(number, f"PART-{self._series}-{number:06d}", scratched)

    def part_at(self, picture: int) -> LinePart:
        """Return the part that entered the picture last."""
        return self.part(picture * _SPEED // _SPACING)

    def picture(self, index: int) -> Pixels:
        """Return the `index`-th picture."""
        moved = index * _SPEED
        shown = self._belt.copy()
        stripes = np.arange(moved % 40, WIDTH, 40)
        shown[_BELT_BOTTOM - 12 : _BELT_BOTTOM, stripes] = 90
        for number in range(moved // _SPACING, -1, -1):
            left = moved - number * _SPACING - _PART_WIDTH
            if left >= WIDTH:
                break
            _paste(shown, _picture_of(self.part(number)), left)
        said = f"{self._label}  {index:06d}"
        cv2.putText(shown, said, (12, 34), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (235, 235, 235), 1, cv2.LINE_AA)
        shift = index * 37 % WIDTH
        return np.asarray(cv2.subtract(shown, self._noise[:, shift : shift + WIDTH]), dtype=np.uint8)


def _belt() -> Pixels:
    shown = np.full((HEIGHT, WIDTH, 3), 58, dtype=np.uint8)
    shown[_BELT_TOP:_BELT_BOTTOM] = np.linspace(70, 118, _BELT_BOTTOM - _BELT_TOP).astype(np.uint8)[:, None, None]
    return shown


def _paste(shown: Pixels, part: Pixels, left: int) -> None:
    begin, end = max(left, 0), min(left + _PART_WIDTH, WIDTH)
    if begin < end:
        shown[_PART_TOP : _PART_TOP + _PART_HEIGHT, begin:end] = part[:, begin - left : end - left]


@lru_cache(maxsize=64)
def _picture_of(part: LinePart) -> Pixels:
    shown = np.full((_PART_HEIGHT, _PART_WIDTH, 3), 214, dtype=np.uint8)
    cv2.rectangle(shown, (0, 0), (_PART_WIDTH - 1, _PART_HEIGHT - 1), (120, 130, 140), 3)
    code = _qr(part.code)
    side = code.shape[0]
    left = (_PART_WIDTH - side) // 2
    shown[14 : 14 + side, left : left + side] = code[:, :, None]
    cv2.putText(shown, part.code, (14, 156), cv2.FONT_HERSHEY_SIMPLEX, 0.46, (30, 30, 30), 1, cv2.LINE_AA)
    if part.scratched:
        cv2.line(shown, (18, 182), (138, 164), (40, 40, 170), 2, cv2.LINE_AA)
    return shown


def _qr(text: str) -> Pixels:
    modules = np.array(
        [list(row) for row in segno.make(text, version=1, error="m", micro=False).matrix], dtype=np.uint8
    )
    light = np.pad((1 - modules) * 255, 4, constant_values=255)
    return np.kron(light, np.ones((_MODULE_PIXELS, _MODULE_PIXELS), dtype=np.uint8)).astype(np.uint8)
