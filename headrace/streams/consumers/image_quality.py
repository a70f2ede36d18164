"""Measure the quality of one frame. Pure: bytes in, numbers and a thumbnail out."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from headrace.streams.consumers.pictures import DecodedPixels, NotDecodableError, decode, narrowed

DARK_MAX = 5  # grey values up to this are black to a person
BRIGHT_MIN = 250  # and from this on white
THUMBNAIL_WIDTH_MAX = 320
THUMBNAIL_QUALITY = 80  # JPEG's own scale of 100

_HASH_SIDE = 8
_HASH_PICTURE_SIDE = 32


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class FrameQuality:
    """The measurements; see `PreprocessedFrame` for the scales."""

    width: int
    height: int
    sharpness: float
    brightness: float
    dark_share: float
    bright_share: float
    perceptual_hash: str
    thumbnail: Thumbnail


def measure(data: bytes) -> FrameQuality:
    """Decode an image and measure it; one of more than 25 megapixels at half its width and height.

    Raises:
        NotDecodableError.
    """
    picture = decode(data, colour=True)
    colour = picture.pixels
    grey = np.asarray(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), np.uint8)
    return FrameQuality(
        width=picture.width,
        height=picture.height,
        sharpness=sharpness(grey),
        brightness=float(grey.mean()) / 255,
        dark_share=float(np.count_nonzero(grey <= DARK_MAX)) / grey.size,
        bright_share=float(np.count_nonzero(grey >= BRIGHT_MIN)) / grey.size,
        perceptual_hash=perceptual_hash(grey),
        thumbnail=_thumbnail(colour),
    )


def sharpness(grey: DecodedPixels) -> float:
    """Return the variance of the Laplacian, which is high for edges and low for blur.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    # 16 bits hold every answer of the 3 x 3 kernel to 8-bit pixels, at a quarter of the memory of doubles.
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviation[0][0]) ** 2


def perceptual_hash(grey: DecodedPixels) -> str:
    """Return 64 bits, as 16 hexadecimal digits, that are alike for similar frames; compare by Hamming distance.

    The low frequencies of the picture's cosine transform, each against their median; the mean and the frequencies along
    one axis alone are left out. Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
    2010, section 3.2.1 (pHash's DCT hash).
    """
    smooth = cv2.blur(grey, (7, 7))
    small = cv2.resize(smooth, (_HASH_PICTURE_SIDE, _HASH_PICTURE_SIDE), interpolation=cv2.INTER_AREA)
    single: NDArray[Any] = np.asarray(small, np.float32)
    frequencies = np.asarray(cv2.dct(single))
    low = frequencies[1 : _HASH_SIDE + 1, 1 : _HASH_SIDE + 1]
    bits = (low > np.median(low)).flatten()
    return np.packbits(bits).tobytes().hex()


def hamming_distance(first: str, second: str) -> int:
    """Return the number of bits in which two perceptual hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def _thumbnail(colour: DecodedPixels) -> Thumbnail:
    small = narrowed(colour, THUMBNAIL_WIDTH_MAX)
    done, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])
    if not done:
        raise NotDecodableError("OpenCV cannot encode its thumbnail")
    return Thumbnail(jpeg.tobytes(), small.shape[1], small.shape[0])
