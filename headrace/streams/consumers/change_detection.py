"""Detect what changed from one frame of a source to the next. Pure: pixels in, score and regions out.

Both frames are converted to grey, reduced to at most 640 pixels of width, and blurred against noise; pixels that differ
by more than a threshold have changed. The threshold is Otsu's, which separates changed from unchanged pixels, with a
minimum: in two equal frames it would separate noise from noise.

Source: Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Transactions on Systems, Man, and
Cybernetics 9 (1), 1979.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from headrace.schemas.events import Region
from headrace.schemas.limits import REGIONS_MAX
from headrace.streams.consumers.pictures import DecodedPixels, narrowed

WORKING_WIDTH_MAX = 640
THRESHOLD_MIN = 18  # of 255; sensor noise and JPEG artefacts after the blur stay below
REGION_SHARE_MIN = 0.0002  # of the frame: 72 of 640 x 360 pixels; smaller ones are noise

_BLUR = (5, 5)
_SPECK = np.ones((3, 3), np.uint8)
_GAP = np.ones((9, 9), np.uint8)


@dataclass(frozen=True, slots=True)
class Look:
    """A frame prepared for comparison; `width` and `height` are those of the original."""

    grey: DecodedPixels
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Change:
    """The share of the frame that changed, 0 to 1, and the changed regions, largest first."""

    score: float
    regions: tuple[Region, ...]


def look(grey: DecodedPixels, size: tuple[int, int] | None = None) -> Look:
    """Prepare a grey frame for comparison; `size` is its original width and height if it was reduced."""
    width, height = size or (grey.shape[1], grey.shape[0])
    blurred = cv2.GaussianBlur(narrowed(grey, WORKING_WIDTH_MAX), _BLUR, 0)
    return Look(np.asarray(blurred, np.uint8), width, height)


def change(before: Look, now: Look) -> Change | None:
    """Return what changed, or None if the frames have different shapes."""
    if before.grey.shape != now.grey.shape:
        return None
    difference = cv2.absdiff(before.grey, now.grey)
    otsu, _ = cv2.threshold(difference, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    _, mask = cv2.threshold(difference, max(otsu, THRESHOLD_MIN), 255, cv2.THRESH_BINARY)
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _SPECK)
    mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _GAP)
    return _described(np.asarray(mask, np.uint8), now)


def _described(mask: DecodedPixels, now: Look) -> Change:
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    areas = stats[1:]  # the first is the unchanged background
    areas = areas[areas[:, cv2.CC_STAT_AREA] >= REGION_SHARE_MIN * mask.size]
    largest = areas[np.argsort(-areas[:, cv2.CC_STAT_AREA], kind="stable")][:REGIONS_MAX]
    across, down = now.width / mask.shape[1], now.height / mask.shape[0]
    regions = tuple(_region(tuple(int(value) for value in row), across, down) for row in largest)
    return Change(float(areas[:, cv2.CC_STAT_AREA].sum()) / mask.size, regions)


def _region(stats: tuple[int, ...], across: float, down: float) -> Region:
    left, top, width, height, area = stats
    x, y = int(left * across), int(top * down)
    # The far edges are rounded up, so that a region never leaves out a changed pixel.
    right, bottom = -int(-(left + width) * across // 1), -int(-(top + height) * down // 1)
    return Region(x, y, right - x, bottom - y, area / (width * height))
