import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.schemas.limits import REGIONS_MAX
from headrace.streams.consumers.change_detection import change, look
from headrace.streams.consumers.perception import PreviousFrame, PreviousFrames, look_at


def scene(width: int = 1280, height: int = 720) -> np.ndarray:
    random = np.random.default_rng(7)
    return cv2.resize(random.integers(60, 200, (9, 16), dtype=np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)


def with_block(image: np.ndarray, x: int, y: int, size: int = 100, value: int = 255) -> np.ndarray:
    image = image.copy()
    image[y : y + size, x : x + size] = value
    return image


def noisy(image: np.ndarray, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def test_the_same_frame_has_not_changed():
    detected = change(look(scene()), look(scene()))
    assert detected is not None
    assert (detected.score, detected.regions) == (0.0, ())


def test_sensor_noise_is_no_change():
    detected = change(look(noisy(scene(), 1)), look(noisy(scene(), 2)))
    assert detected is not None
    assert detected.score == 0.0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1180), st.integers(0, 620))
def test_a_block_that_appears_is_found_where_it_is(x: int, y: int):
    detected = change(look(noisy(scene(), 1)), look(noisy(with_block(scene(), x, y), 2)))
    assert detected is not None
    region = detected.regions[0]
    assert abs(region.x - x) <= 20
    assert abs(region.y - y) <= 20
    assert abs(region.x + region.width - (x + 100)) <= 20
    assert abs(region.y + region.height - (y + 100)) <= 20
    assert region.x + region.width <= 1280
    assert region.y + region.height <= 720
    assert 0.5 < region.score <= 1
    assert detected.score == pytest.approx(100 * 100 / (1280 * 720), rel=0.5)


def test_a_block_that_moved_is_found_at_both_places():
    detected = change(look(with_block(scene(), 100, 100)), look(with_block(scene(), 900, 500)))
    assert detected is not None
    assert len(detected.regions) == 2
    assert {(region.x // 200, region.y // 200) for region in detected.regions} == {(0, 0), (4, 2)}


def test_regions_come_largest_first():
    now = with_block(with_block(with_block(scene(), 100, 100, 40), 400, 300, 160), 900, 100, 80)
    detected = change(look(scene()), look(now))
    assert detected is not None
    sizes = [region.width * region.height for region in detected.regions]
    assert len(sizes) == 3
    assert sizes == sorted(sizes, reverse=True)


def test_no_more_regions_than_the_contract_allows():
    now = scene()
    for x in range(0, 1280, 32):
        for y in range(0, 720, 32):
            now = with_block(now, x, y, 14)
    detected = change(look(np.zeros_like(now)), look(np.where(now == 255, 255, 0).astype(np.uint8)))
    assert detected is not None
    assert len(detected.regions) == REGIONS_MAX


def test_frames_of_other_proportions_are_not_compared():
    assert change(look(scene()), look(scene(640, 480))) is None


def test_a_one_pixel_frame_can_be_compared():
    black, white = np.zeros((1, 1), np.uint8), np.full((1, 1), 255, np.uint8)
    assert change(look(black), look(black)) is not None
    assert change(look(black), look(white)) is not None


def seen(digest: str, partition: tuple[str, int] = ("t", 0)) -> PreviousFrame:
    return PreviousFrame(digest, look(np.zeros((10, 10), np.uint8)), partition)


def test_each_source_has_its_own_last_frame():
    last = PreviousFrames(10_000)
    assert last.swap(("s", "a"), seen("1")) is None
    assert last.swap(("s", "b"), seen("2")) is None
    assert last.swap(("s", "a"), seen("3")).digest == "1"
    assert last.swap(("t", "a"), seen("4")) is None
    assert last.swap(("s", "b"), seen("5")).digest == "2"


def test_the_sources_that_were_silent_for_longest_go_first():
    last = PreviousFrames(250)
    for name in ("a", "b", "a", "c"):
        last.swap(("s", name), seen(name))
    assert last.swap(("s", "b"), seen("x")) is None
    assert last.swap(("s", "c"), seen("x")).digest == "c"


def test_a_frame_larger_than_all_the_room_is_still_kept():
    last = PreviousFrames(50)
    last.swap(("s", "a"), seen("1"))
    assert last.swap(("s", "a"), seen("2")).digest == "1"


def test_the_sources_of_a_partition_that_went_are_forgotten():
    last = PreviousFrames(10_000)
    last.swap(("s", "a"), seen("1", ("t", 0)))
    last.swap(("s", "b"), seen("2", ("t", 1)))
    last.forget({("t", 0)})
    assert last.swap(("s", "a"), seen("3")) is None
    assert last.swap(("s", "b"), seen("4")).digest == "2"
    last.forget(None)
    assert last.swap(("s", "b"), seen("5")) is None


def test_a_frame_is_compared_alike_when_it_is_decoded_to_a_smaller_size():
    images = [noisy(scene(1920, 1080), 1), noisy(with_block(scene(1920, 1080), 700, 300), 2)]
    whole = change(*map(look, images))
    reduced = change(*(look_at(cv2.imencode(".jpg", image)[1].tobytes()) for image in images))
    assert whole is not None
    assert reduced is not None
    assert reduced.score == pytest.approx(whole.score, rel=0.1)
    assert len(reduced.regions) == len(whole.regions) == 1
    for name in ("x", "y", "width", "height"):
        assert abs(getattr(reduced.regions[0], name) - getattr(whole.regions[0], name)) <= 6
