"""From an image's bytes to its pixels, within limits. Pure; slow enough to belong in a thread."""

from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.limits import FRAME_PIXELS_MAX, FRAME_SIDE_PIXELS_MAX
from schemas.media import image_header

Pixels: TypeAlias = NDArray[np.uint8]
"""Rows, columns and, in colour, blue, green and red: 0 to 255."""

# Frames are decoded beside each other in threads of our own; threads within one image would only compete.
cv2.setNumThreads(1)


class NotDecodable(ValueError):  # noqa: N818 - named for what was found
    """The bytes are no picture that can be decoded within the limits; the sentence says why."""


def check_header(data: bytes) -> int:
    """Return how many pixels the header announces, before anything is allocated for them.

    Raises:
        NotDecodable: there is no header, or it announces more than the contract allows.
    """
    header = image_header(data)
    if header is None:
        raise NotDecodable("no JPEG, PNG or WebP header")
    width, height = header.width, header.height
    if width * height > FRAME_PIXELS_MAX or max(width, height) > FRAME_SIDE_PIXELS_MAX:
        raise NotDecodable(f"{width} x {height} pixels are more than {FRAME_PIXELS_MAX} or too long a side")
    return width * height


def decode(data: bytes, *, colour: bool) -> Pixels:
    """Return the picture as it is meant to be seen: an EXIF orientation is applied.

    Raises:
        NotDecodable: OpenCV cannot decode it.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR if colour else cv2.IMREAD_GRAYSCALE)
    except cv2.error as error:
        raise NotDecodable(f"OpenCV: {error.err}") from None
    if pixels is None:
        raise NotDecodable("OpenCV cannot decode it")
    return np.asarray(pixels, np.uint8)


def narrowed(pixels: Pixels, width_max: int) -> Pixels:
    """Return the picture at most `width_max` wide, its proportions kept."""
    height, width = pixels.shape[:2]
    if width <= width_max:
        return pixels
    size = width_max, max(1, round(height * width_max / width))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
