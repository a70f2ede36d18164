import cv2
import numpy as np
import pytest

from streams.consumers.image_quality import hamming_distance, measure, perceptual_hash, sharpness
from streams.consumers.pictures import NotDecodable, check_header


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
    distances = [hamming_distance(one, other) for i, one in enumerate(hashes) for other in hashes[i + 1 :]]
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
    with pytest.raises(NotDecodable):
        check_header(data)
    with pytest.raises(NotDecodable):
        measure(data)


def test_a_picture_too_large_is_refused_by_its_header_alone():
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + (30_000).to_bytes(4, "big") + (30_000).to_bytes(4, "big")
    with pytest.raises(NotDecodable, match="30000 x 30000"):
        check_header(header + bytes(20))


def test_a_picture_cut_short_is_refused():
    whole = jpeg(picture(6))
    assert check_header(whole) == 640 * 360
    with pytest.raises(NotDecodable):
        measure(whole[: len(whole) // 2])
