"""Measure the quality of one frame. Pure: bytes in, numbers and a thumbnail out."""

from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np
from numpy.typing import NDArray

from headrace.streams.consumers.pictures import (
    DecodedFrame,
    DecodedPixels,
    NotDecodableError,
    decode,
    is_jpeg,
    narrowed,
)

DARK_MAX = 5  # grey values up to this are black to a person
BRIGHT_MIN = 250  # and from this on white
THUMBNAIL_WIDTH_MAX = 320
THUMBNAIL_QUALITY = 80  # JPEG's own scale of 100

_HASH_SIDE = 8
_HASH_PICTURE_SIDE = 32
_HASH_SMOOTHED_PIXELS = 7  # across and down, of the whole picture


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
    picture, colour = _decoded(data)
    grey = picture.pixels
    small = narrowed(colour, THUMBNAIL_WIDTH_MAX)
    return FrameQuality(
        width=picture.width,
        height=picture.height,
        sharpness=sharpness(grey),
        brightness=cv2.mean(grey)[0] / 255,
        dark_share=float(np.count_nonzero(grey <= DARK_MAX)) / grey.size,
        bright_share=float(np.count_nonzero(grey >= BRIGHT_MIN)) / grey.size,
        perceptual_hash=perceptual_hash(_grey(small), scale=grey.shape[1] / small.shape[1]),
        thumbnail=_thumbnail(small),
    )


def _decoded(data: bytes) -> tuple[DecodedFrame, DecodedPixels]:
    """Return the image in grey, and in colour with pixels enough for the thumbnail.

    A JPEG holds its grey apart from its colours, and is decoded to a smaller size at once.
    """
    if is_jpeg(data):
        return decode(data, colour=False), decode(data, colour=True, width_min=THUMBNAIL_WIDTH_MAX).pixels
    picture = decode(data, colour=True)
    return replace(picture, pixels=_grey(picture.pixels)), picture.pixels


def _grey(colour: DecodedPixels) -> DecodedPixels:
    return np.asarray(cv2.cvtColor(colour, cv2.COLOR_BGR2GRAY), np.uint8)


def sharpness(grey: DecodedPixels) -> float:
    """Return the variance of the Laplacian, which is high for edges and low for blur.

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    # 16 bits hold every answer of the 3 x 3 kernel to 8-bit pixels, at a quarter of the memory of doubles.
    edges = cv2.Laplacian(grey, cv2.CV_16S)
    # The mean of the squares without the square of the mean: a fifth of the time of meanStdDev.
    variance = cv2.norm(edges, cv2.NORM_L2SQR) / edges.size - cv2.mean(edges)[0] ** 2
    return max(0.0, float(variance))


def perceptual_hash(grey: DecodedPixels, *, scale: float = 1.0) -> str:
    """Return 64 bits, as 16 hexadecimal digits, that are alike for similar frames; compare by Hamming distance.

    `scale` is by how much the picture is reduced already: it is smoothed over so many fewer pixels.

    The low frequencies of the picture's cosine transform, each against their median; the mean and the frequencies along
    one axis alone are left out. Source: Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions",
    2010, section 3.2.1 (pHash's DCT hash).
    """
    kernel = _mean_over(_HASH_SMOOTHED_PIXELS / scale)
    smooth = cv2.sepFilter2D(grey, cv2.CV_32F, kernel, kernel)
    small = cv2.resize(smooth, (_HASH_PICTURE_SIDE, _HASH_PICTURE_SIDE), interpolation=cv2.INTER_AREA)
    frequencies = np.asarray(cv2.dct(small))
    low = frequencies[1 : _HASH_SIDE + 1, 1 : _HASH_SIDE + 1]
    bits = (low > np.median(low)).flatten()
    return np.packbits(bits).tobytes().hex()


def _mean_over(pixels: float) -> NDArray[np.float64]:
    """Return the filter along one axis for a mean over so many pixels, of which the outer ones may count in part."""
    reach = max(0, ceil((pixels - 1) / 2))
    weights = np.ones(2 * reach + 1)
    if reach:
        weights[0] = weights[-1] = (pixels - 1) / 2 - (reach - 1)
    return np.asarray(weights / weights.sum(), np.float64)


def hamming_distance(first: str, second: str) -> int:
    """Return the number of bits in which two perceptual hashes differ."""
    return (int(first, 16) ^ int(second, 16)).bit_count()


def _thumbnail(small: DecodedPixels) -> Thumbnail:
    done, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, THUMBNAIL_QUALITY])
    if not done:
        raise NotDecodableError("OpenCV cannot encode its thumbnail")
    return Thumbnail(jpeg.tobytes(), small.shape[1], small.shape[0])
