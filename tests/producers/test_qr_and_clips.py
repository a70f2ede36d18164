import io
import sys
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import segno

from headrace.producers import camera
from headrace.producers.bodies import parse_ldo_line
from headrace.producers.camera import Appearances, ScannedCode, find_codes
from headrace.producers.clips import CLIP_SIDE_PIXELS_MAX, CLIPS_WAITING_MAX, Clipper, FrameRing, cut
from headrace.producers.delivery import Acknowledged, Delivery
from headrace.producers.video_frames import VideoFrame, to_jpeg
from headrace.schemas.reject import RejectedError
from tests.producers.sample_media import image, picture

SECOND_US = 1_000_000


def video_frames(count: int, fps: int = 10) -> list[VideoFrame]:
    return [VideoFrame(to_jpeg(picture(n), 80), n * SECOND_US // fps, n) for n in range(count)]


def test_a_code_is_found_by_zxing_and_by_opencv(monkeypatch: pytest.MonkeyPatch):
    assert find_codes(picture(1, "C-1")) == [ScannedCode("C-1")]
    assert find_codes(picture(1)) == []
    monkeypatch.setitem(sys.modules, "zxingcpp", None)
    monkeypatch.setattr(camera, "_scan", camera._qr_reader())
    assert camera._scan is camera._with_opencv
    assert find_codes(picture(1, "C-1")) == [ScannedCode("C-1")]
    assert find_codes(picture(1)) == []


@pytest.mark.parametrize(
    "text",
    [
        "[)>\x1e06\x1dP12345\x1dS0001\x1e\x04",
        "\x1d0109501101530003\x1d10ABC",
        "Größe 5 µm",
        "部品-7",
        "a\nb",
        "01",
        "]C1",
    ],
)
def test_a_code_is_what_is_printed(text: str):
    out = io.BytesIO()
    segno.make_qr(text).save(out, kind="png", scale=4)
    pixels = cv2.imdecode(np.frombuffer(out.getvalue(), np.uint8), cv2.IMREAD_COLOR)
    assert find_codes(np.asarray(pixels)) == [ScannedCode(text)]


def test_a_code_that_was_away_appears_anew():
    seen = Appearances(gone_s=2)
    a, b = ScannedCode("a"), ScannedCode("b")
    assert seen.new([a], 0) == [a]
    assert seen.new([a, b], SECOND_US) == [b]
    assert seen.new([], 2 * SECOND_US) == []
    assert seen.new([a], 3 * SECOND_US) == []
    assert seen.new([a, b], 5 * SECOND_US + 1) == [a, b]
    assert len(seen._seen_at_us) == 2


def test_a_ring_is_bounded_in_time_and_in_bytes():
    ring = FrameRing(seconds=5, bytes_max=1000)
    for number in range(20):
        ring.add(VideoFrame(bytes(10), number * SECOND_US, 0))
    assert [video_frame.at_us // SECOND_US for video_frame in ring.between(0, 99 * SECOND_US)] == [
        14,
        15,
        16,
        17,
        18,
        19,
    ]
    ring.add(VideoFrame(bytes(960), 20 * SECOND_US, 0))
    assert len(ring.between(0, 99 * SECOND_US)) == 5
    ring.add(VideoFrame(bytes(2000), 21 * SECOND_US, 0))
    assert ring.between(0, 99 * SECOND_US) == ()
    ring.add(VideoFrame(bytes(10), 22 * SECOND_US, 0))
    assert len(ring.between(0, 99 * SECOND_US)) == 1


def test_the_same_shots_give_the_same_bytes():
    assert cut(video_frames(12)) == cut(video_frames(12))


def test_shots_of_other_sizes_kinds_and_times_become_one_clip(tmp_path: Path):
    mixed = [
        VideoFrame(image(1, kind=".webp"), 0, 0),
        VideoFrame(b"no image", 50_000, 0),
        VideoFrame(to_jpeg(np.zeros((99, 77, 3), np.uint8), 80), 100_000, 0),
        VideoFrame(image(2), 100_000, 0),
        VideoFrame(image(2), 300_000, 0),
    ]
    (tmp_path / "c.mp4").write_bytes(cut(mixed) or b"")
    with av.open(tmp_path / "c.mp4") as container:
        frames = list(container.decode(video=0))
    assert [(frame.width, frame.height) for frame in frames] == [(320, 240)] * 3
    assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.3])


def test_large_shots_are_scaled_down(tmp_path: Path):
    (tmp_path / "c.mp4").write_bytes(cut([VideoFrame(to_jpeg(np.zeros((1001, 4001, 3), np.uint8), 80), 0, 0)]) or b"")
    with av.open(tmp_path / "c.mp4") as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (CLIP_SIDE_PIXELS_MAX, 480)


def test_of_nothing_there_is_no_clip():
    assert cut([]) is None
    assert cut([VideoFrame(b"no image", 0, 0)]) is None


def test_more_wishes_than_can_wait_hold_the_shots_up_and_all_come_true():
    clipper = Clipper(lambda seen, about: _acknowledged(f"{about}:{len(seen)}"))
    wished = []
    for video_frame in video_frames(80):
        clipper.see(video_frame)
        wished.append(clipper.request(str(len(wished))))
    clipper.finish()
    assert len(wished) > CLIPS_WAITING_MAX
    assert wished[0].result(5).digest == "0:26"
    assert wished[40].result(5).digest == "40:51"
    assert wished[79].result(5).digest == "79:26"


def _acknowledged(digest: str) -> Delivery:
    delivery = Delivery()
    delivery.set_result(Acknowledged("topic", 0, 0, digest))
    return delivery


LINE = b'{"ldo_id":"l","sensor_data":{"a":1},"context":{},"prediction":{}'


def test_a_line_is_an_ldo():
    ldo_line = parse_ldo_line(LINE + b',"captured_at_us":5,"clip":"a/b.mp4"}', Path("folder"))
    assert (ldo_line.ldo_id, ldo_line.captured_at_us) == ("l", 5)
    assert ldo_line.body == b'{"sensor_data":{"a":1},"context":{},"prediction":{}}'
    assert ldo_line.clip == Path("folder/a/b.mp4")
    assert parse_ldo_line(LINE + b"}", Path()).clip is None


def test_the_values_of_a_line_are_taken_as_they_are_written():
    before, after = (
        b'{"prediction":{"p": 0.10000000000000000001},"context":{"n":123456789012345678901},',
        b'"sensor_data":{}}',
    )
    assert parse_ldo_line(before + b'"ldo_id":"l",' + after, Path()).body == before + after


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"nope", "JSON"),
        (b"[]", "object"),
        (b'{"ldo_id":"l"}', "sensor_data"),
        (b'{"sensor_data":{},"context":{},"prediction":{}}', "ldo_id"),
        (LINE + b',"captured_at_us":true}', "integer"),
        (LINE + b',"clip":5}', "path"),
        (LINE + b',"colour":5}', "colour"),
        (LINE + b',"context":{}}', "repeated"),
    ],
)
def test_a_line_that_is_no_ldo_says_why(line: bytes, says: str):
    with pytest.raises(RejectedError, match=says):
        parse_ldo_line(line, Path())
