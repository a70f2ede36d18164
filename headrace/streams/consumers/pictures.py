"""Decode images within limits of pixels and memory; decoding is slow and belongs in a thread."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from headrace.runtime.pictures import decode_upright
from headrace.schemas.limits import FRAME_BYTES_MAX, FRAME_PIXELS_MAX, FRAME_SIDE_PIXELS_MAX
from headrace.schemas.media_probe import ImageHeader, image_header_of
from headrace.schemas.reject import RejectedError

DecodedPixels: TypeAlias = NDArray[np.uint8]
"""Rows, columns and, in colour, blue, green and red: 0 to 255."""

# Larger pictures are measured at half their width and height: a JPEG is then decoded to that size at once, which takes
# 1.5 bytes a pixel. Other formats are decoded whole (3 bytes) and then reduced, and of a progressive JPEG libjpeg holds
# every coefficient (6 bytes). Measured at 100 megapixels, in MB: JPEG 144, PNG 358, WebP 382, progressive JPEG 641.
WHOLE_PIXELS_MAX = 25_000_000
REDUCED_BYTES_A_PIXEL_MAX = 7
WITH_PILLOW = frozenset({"image/avif", "image/heic", "image/heif"})  # OpenCV leaves them unturned, or cannot read them
WHOLE_BYTES_A_PIXEL_MAX = 9  # a progressive JPEG's coefficients and its colours; grey and Laplacian come after those
COPIES_OF_A_BODY = 2  # the client's and ours, for a moment
BODY_BYTES_AT_ONCE_MAX = COPIES_OF_A_BODY * FRAME_BYTES_MAX
DECODING_BYTES_AT_ONCE_MAX = FRAME_PIXELS_MAX * REDUCED_BYTES_A_PIXEL_MAX  # the largest frame alone, or several

_REDUCED = {
    1: (cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE),
    2: (cv2.IMREAD_REDUCED_COLOR_2, cv2.IMREAD_REDUCED_GRAYSCALE_2),
    4: (cv2.IMREAD_REDUCED_COLOR_4, cv2.IMREAD_REDUCED_GRAYSCALE_4),
    8: (cv2.IMREAD_REDUCED_COLOR_8, cv2.IMREAD_REDUCED_GRAYSCALE_8),
}

# Frames are decoded beside each other in threads of our own; threads within one image would only compete.
cv2.setNumThreads(1)


class NotDecodableError(ValueError):
    """The bytes are no image that can be decoded within the limits; the text says why."""


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A decoded image with its orientation applied; `width` and `height` are those before it was reduced."""

    pixels: DecodedPixels
    width: int
    height: int


def decoding_bytes(data: bytes) -> int:
    """Return the most memory, in bytes, that decoding and measuring will need.

    Raises:
        NotDecodableError: there is no header, or it declares more pixels than the contract allows.
    """
    header = _header(data)
    pixels = header.width * header.height
    return pixels * (WHOLE_BYTES_A_PIXEL_MAX if pixels <= WHOLE_PIXELS_MAX else REDUCED_BYTES_A_PIXEL_MAX)


def is_jpeg(data: bytes) -> bool:
    """Return whether the image is a JPEG.

    Raises:
        NotDecodableError: as `decode`.
    """
    return _header(data).media_type == "image/jpeg"


def decode(data: bytes, *, colour: bool, width_min: int | None = None) -> DecodedFrame:
    """Return the image with its EXIF orientation applied, reduced to half its size if it is large.

    With `width_min` a JPEG is decoded to an eighth, a quarter or half of its size if it stays at least so wide: libjpeg
    then computes fewer pixels, each about the mean of those that it stands for.

    Raises:
        NotDecodableError: it cannot be decoded, or its header declares more than the contract allows.
    """
    header = _header(data)
    if header.media_type in WITH_PILLOW:
        return _decoded_by_pillow(data, header, colour=colour)
    for scale in _scales(header, width_min):
        try:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[scale][not colour])
        except cv2.error:
            decoded = None
        if decoded is None:  # Pillow, which was asked before the frame was announced, reads some that OpenCV does not
            return _decoded_by_pillow(data, header, colour=colour)
        pixels = np.asarray(decoded, np.uint8)
        height, width = pixels.shape[:2]
        if width_min is None or width >= width_min:
            break
    if scale == 1:
        return DecodedFrame(pixels, width, height)
    # The header has the stored width and height; the EXIF orientation may swap them.
    turned = (height, width) != (-(-header.height // scale), -(-header.width // scale))
    size = (header.height, header.width) if turned else (header.width, header.height)
    return DecodedFrame(pixels, *size)


def _scales(header: ImageHeader, width_min: int | None) -> Iterator[int]:
    """Yield by how much an image is reduced; the second is for one that is turned, which decoding shows."""
    least = 1 if header.width * header.height <= WHOLE_PIXELS_MAX else 2
    if width_min is None or header.media_type != "image/jpeg":
        yield least
        return
    for width in (header.width, min(header.width, header.height)):
        yield max(least, *(scale for scale in _REDUCED if width >= scale * width_min), 1)


def _decoded_by_pillow(data: bytes, header: ImageHeader, *, colour: bool) -> DecodedFrame:
    try:
        image = decode_upright(data, header, "RGB" if colour else "L")
    except RejectedError as rejected:
        raise NotDecodableError(rejected.reason) from None
    width, height = image.size
    if width * height > WHOLE_PIXELS_MAX:
        image = image.reduce(2)
    pixels = np.asarray(image, np.uint8)
    if colour:
        pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), np.uint8)
    return DecodedFrame(pixels, width, height)


def _header(data: bytes) -> ImageHeader:
    try:
        header = image_header_of(data)
    except RejectedError as rejected:
        raise NotDecodableError(rejected.reason) from None
    width, height = header.width, header.height
    if width * height > FRAME_PIXELS_MAX or max(width, height) > FRAME_SIDE_PIXELS_MAX:
        raise NotDecodableError(f"{width} x {height} pixels are more than {FRAME_PIXELS_MAX} or too long a side")
    return header


def narrowed(pixels: DecodedPixels, width_max: int) -> DecodedPixels:
    """Return the image reduced to at most `width_max`, with its proportions."""
    height, width = pixels.shape[:2]
    if width <= width_max:
        return pixels
    size = width_max, max(1, round(height * width_max / width))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


class MemoryBudget:
    """Limits the bytes in use, so that large frames wait for each other."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait until `size_bytes` fit; more than the whole budget is held alone."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._held == 0 or self._held + size_bytes <= self._bytes_max)
            self._held += size_bytes
        try:
            yield
        finally:
            async with self._freed:
                self._held -= size_bytes
                self._freed.notify_all()


class FrameBudgets:
    """The memory of a consumer that decodes frames: for bodies, and for decoding."""

    def __init__(self) -> None:
        # A body is held while it waits for decoding memory, never the other way round, so there is no deadlock.
        self._bodies = MemoryBudget(BODY_BYTES_AT_ONCE_MAX)
        self.decoding = MemoryBudget(DECODING_BYTES_AT_ONCE_MAX)

    def body(self, size_bytes: int) -> AbstractAsyncContextManager[None]:
        """Wait until a body of `size_bytes` may be read; hold it for as long as the body is used."""
        return self._bodies.hold(COPIES_OF_A_BODY * size_bytes)
