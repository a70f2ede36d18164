import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from headrace.streams.consumers.image_quality import hamming_distance, measure, perceptual_hash, sharpness
from headrace.streams.consumers.pictures import (
    WHOLE_BYTES_A_PIXEL_MAX,
    WHOLE_PIXELS_MAX,
    NotDecodableError,
    decode,
    decoding_bytes,
)
from tests.gateway.test_inspection import png


def picture(seed: int, width: int = 640, height: int = 360) -> np.ndarray:
    """Smooth shapes with some detail: what a camera could see."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(30):
        left, top = (int(value) for value in random.integers(0, (width - 40, height - 40)))
        colour = tuple(int(value) for value in random.integers(0, 256, 3))
        cv2.rectangle(image, (left, top), (left + 30, top + 20), colour, -1)
    return image


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def turned(image: bytes) -> bytes:
    """The JPEG with an orientation that swaps width and height."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    return image[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + image[2:]


def test_a_sharp_picture_is_sharper_than_its_blurred_copy():
    sharp = picture(1)
    assert measure(jpeg(sharp)).sharpness > 3 * measure(jpeg(cv2.GaussianBlur(sharp, (9, 9), 0))).sharpness


def test_sharpness_is_the_variance_of_the_laplacian():
    grey = cv2.cvtColor(picture(2), cv2.COLOR_BGR2GRAY)
    assert sharpness(grey) == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var())
    assert sharpness(np.zeros((1, 1), np.uint8)) == 0


def test_brightness_and_its_extremes():
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, :50] = 255
    image[:, 50:100] = 128
    ok, png = cv2.imencode(".png", image)
    quality = measure(png.tobytes())
    assert ok
    assert quality.brightness == pytest.approx((255 * 50 + 128 * 50) / 200 / 255, abs=0.001)
    assert (quality.dark_share, quality.bright_share) == (0.5, 0.25)
    assert (quality.width, quality.height) == (200, 100)


def test_the_hash_survives_another_encoding_and_size():
    image = picture(3)
    first = measure(jpeg(image)).perceptual_hash
    assert hamming_distance(first, measure(jpeg(image, 30)).perceptual_hash) <= 6
    assert hamming_distance(first, measure(jpeg(cv2.resize(image, (320, 180)))).perceptual_hash) <= 6
    assert hamming_distance(first, measure(jpeg(cv2.convertScaleAbs(image, alpha=0.8))).perceptual_hash) <= 8


def test_the_hash_tells_other_pictures_apart():
    hashes = [measure(jpeg(picture(seed))).perceptual_hash for seed in range(8)]
    assert all(len(each) == 16 for each in hashes)
    distances = [
        hamming_distance(image_hash, other) for i, image_hash in enumerate(hashes) for other in hashes[i + 1 :]
    ]
    assert min(distances) > 10


def test_a_picture_of_one_colour_has_a_hash_too():
    assert len(perceptual_hash(np.full((10, 10), 7, np.uint8))) == 16


def test_the_thumbnail_is_narrow_and_keeps_its_proportions():
    thumbnail = measure(jpeg(picture(4, 1280, 720))).thumbnail
    assert (thumbnail.width, thumbnail.height) == (320, 180)
    assert cv2.imdecode(np.frombuffer(thumbnail.jpeg, np.uint8), cv2.IMREAD_COLOR).shape == (180, 320, 3)
    small = measure(jpeg(picture(5, 100, 80))).thumbnail
    assert (small.width, small.height) == (100, 80)


def test_a_one_pixel_picture_is_measured():
    quality = measure(cv2.imencode(".png", np.full((1, 1, 3), 9, np.uint8))[1].tobytes())
    assert (quality.width, quality.height, quality.sharpness) == (1, 1, 0)


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff", bytes(100)])
def test_bytes_that_are_no_picture_say_so(data: bytes):
    with pytest.raises(NotDecodableError):
        decoding_bytes(data)
    with pytest.raises(NotDecodableError):
        measure(data)


def test_a_picture_too_large_is_refused_by_its_header_alone():
    with pytest.raises(NotDecodableError, match="30000 x 30000"):
        decoding_bytes(png(30_000, 30_000, pixels=b"none"))


def test_a_picture_cut_short_is_refused():
    whole = jpeg(picture(6))
    assert decoding_bytes(whole) == 640 * 360 * WHOLE_BYTES_A_PIXEL_MAX
    with pytest.raises(NotDecodableError):
        measure(whole[: len(whole) // 2])


@pytest.mark.parametrize("kind", [".jpg", ".png"])
def test_a_large_picture_is_reduced_and_keeps_its_size_and_looks(kind: str):
    image = cv2.resize(picture(7), (6720, 3780))
    large = cv2.imencode(kind, image, [cv2.IMWRITE_PNG_COMPRESSION, 1] if kind == ".png" else [])[1].tobytes()
    assert decode(large, colour=True).pixels.shape == (1890, 3360, 3)
    measured, small = measure(large), measure(jpeg(picture(7)))
    assert (measured.width, measured.height) == (6720, 3780)
    assert (measured.thumbnail.width, measured.thumbnail.height) == (320, 180)
    assert measured.brightness == pytest.approx(small.brightness, abs=0.01)
    assert hamming_distance(measured.perceptual_hash, small.perceptual_hash) <= 6


def test_a_large_picture_on_its_side_has_its_width_and_height_as_it_is_seen():
    seen = decode(turned(jpeg(cv2.resize(picture(8), (6720, 3780)))), colour=False)
    assert (seen.width, seen.height, seen.pixels.shape) == (3780, 6720, (3360, 1890))


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("sampling", ["444", "420"])
def test_a_jpeg_is_measured_within_its_tolerances_of_the_same_pixels_in_a_png(quality: int, sampling: str):
    how = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")]
    data = cv2.imencode(".jpg", picture(11, 1920, 1080), [cv2.IMWRITE_JPEG_QUALITY, quality, *how])[1].tobytes()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    measured, whole = measure(data), measure(cv2.imencode(".png", pixels)[1].tobytes())
    assert (measured.width, measured.height) == (whole.width, whole.height) == (1920, 1080)
    assert measured.brightness == pytest.approx(whole.brightness, abs=0.005)
    assert measured.dark_share == pytest.approx(whole.dark_share, abs=0.01)
    assert measured.bright_share == pytest.approx(whole.bright_share, abs=0.01)
    grey = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
    assert measured.sharpness == pytest.approx(cv2.Laplacian(grey, cv2.CV_64F).var(), rel=0.1)
    assert hamming_distance(measured.perceptual_hash, perceptual_hash(grey)) <= 4
    shown = [cv2.imdecode(np.frombuffer(each.thumbnail.jpeg, np.uint8), cv2.IMREAD_COLOR) for each in (measured, whole)]
    assert shown[0].shape == shown[1].shape == (180, 320, 3)
    assert np.abs(shown[0].astype(int) - shown[1]).mean() <= 3


@pytest.mark.parametrize(
    ("size", "width_min", "reduced_to"),
    [
        ((1920, 1080), 320, (270, 480)),
        ((1920, 1080), 640, (540, 960)),
        ((5120, 2880), 640, (360, 640)),
        ((1279, 720), 640, (720, 1279)),
        ((200, 100), 320, (100, 200)),
        ((2565, 2564), 320, (321, 321)),
    ],
)
def test_a_jpeg_is_decoded_no_larger_than_it_is_needed(size, width_min, reduced_to):
    image = jpeg(picture(12, *size))
    seen = decode(image, colour=True, width_min=width_min)
    assert (*seen.pixels.shape[:2], seen.width, seen.height) == (*reduced_to, *size)


def test_a_jpeg_on_its_side_keeps_as_many_pixels_as_are_needed_across():
    upright = decode(turned(jpeg(picture(13, 1920, 1080))), colour=False, width_min=320)
    assert (upright.pixels.shape, upright.width, upright.height) == ((960, 540), 1080, 1920)


def test_only_a_jpeg_is_reduced():
    whole = cv2.imencode(".png", picture(14, 1920, 1080))[1].tobytes()
    assert decode(whole, colour=False, width_min=320).pixels.shape == (1080, 1920)


_DECODE = """
import resource, sys
from headrace.streams.consumers.image_quality import measure
from headrace.streams.consumers.pictures import decoding_bytes
data = open(sys.argv[1], "rb").read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measure(data)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, decoding_bytes(data))
"""


@pytest.mark.server
@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("width", [6600, 8000])  # the largest that is decoded whole, and one that is reduced
def test_decoding_takes_no_more_memory_than_is_reckoned_with(tmp_path: Path, width: int, progressive: int):
    image = cv2.resize(picture(9), (width, width * 9 // 16))
    how = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive, cv2.IMWRITE_JPEG_SAMPLING_FACTOR]
    whole = cv2.imencode(".jpg", image, [*how, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444])[1].tobytes()
    (tmp_path / "picture").write_bytes(whole)
    answer = subprocess.run(
        [sys.executable, "-c", _DECODE, tmp_path / "picture"], capture_output=True, text=True, check=True, timeout=60
    )
    took, reckoned = map(int, answer.stdout.split())
    assert took <= reckoned
    if not progressive:
        assert took <= 160 * 2**20
    assert (width * width * 9 // 16 <= WHOLE_PIXELS_MAX) == (width == 6600)
