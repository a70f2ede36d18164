import io
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import orjson
import pytest
import segno
from PIL import Image

from headrace.producers import Camera, Publisher, clips
from headrace.producers.delivery import DeliveryStats
from headrace.producers.video_frames import FrameSampler, Pixels
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Cid, Clip, Frame
from headrace.schemas.media_probe import image_header, probe_of
from headrace.schemas.reject import RejectedError
from tests.producers.conftest import EventRecorder
from tests.producers.sample_media import image, picture, write_video

WRITTEN_S = 1_700_000_000


def camera(recorder: EventRecorder, source: int | Path, **options: object) -> Camera:
    return Camera(recorder, source, "cam-1", **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoded_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 8 seconds with two codes, encoded once."""
    path = write_video(tmp_path_factory.mktemp("video") / "v.mp4", 8, codes={"C-1": (2, 4), "C-2": (5, 5.5)})
    os.utime(path, (WRITTEN_S, WRITTEN_S))
    return path


@pytest.fixture
def video(encoded_video: Path, tmp_path: Path) -> Path:
    return shutil.copy2(encoded_video, tmp_path / "v.mp4")


def test_a_folder_is_published_as_it_is_and_in_order(recorder: EventRecorder, tmp_path: Path):
    (tmp_path / "b").mkdir()
    bodies = {"b/1.jpg": image(1, kind=".jpg"), "a.png": image(2), "c.webp": image(3, kind=".webp")}
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
        os.utime(tmp_path / name, (WRITTEN_S, WRITTEN_S))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(image(4))
    report = camera(recorder, tmp_path).run()
    assert (report.frames, report.acknowledged, report.failed) == (3, 3, 1)
    assert "notes.txt" in report.faults[0]
    frames = recorder.of(Frame)
    assert [frame.body for frame in frames] == [bodies[name] for name in ("a.png", "b/1.jpg", "c.webp")]
    assert [frame.media_type for frame in frames] == ["image/png", "image/jpeg", "image/webp"]
    assert {frame.captured_at_us for frame in frames} == {WRITTEN_S * 1_000_000}
    assert all(frame.sha256 == sha256_hex(frame.body) for frame in frames)


def test_one_image_is_a_folder_of_one(recorder: EventRecorder, tmp_path: Path):
    path = tmp_path / "one.png"
    path.write_bytes(image(1))
    os.utime(path, (0, 0))
    assert camera(recorder, path, clock_us=lambda: WRITTEN_S * 1_000_000).run().frames == 1
    assert recorder.events[0].captured_at_us == WRITTEN_S * 1_000_000, "1970 is a time that no agent takes"


def test_a_damaged_image_is_not_published(recorder: EventRecorder, tmp_path: Path):
    (tmp_path / "cut.png").write_bytes(image(1)[:60])
    report = camera(recorder, tmp_path).run()
    assert (report.frames, report.failed) == (0, 1)
    assert "ends too early" in report.faults[0]


def test_the_same_video_gives_the_same_bytes_codes_and_clips(recorder: EventRecorder, video: Path):
    runs = []
    for _ in range(2):
        recorder.events.clear()
        report = camera(recorder, video, clip_on_code=True).run()
        assert (report.frames, report.codes, report.clips, report.failed) == (80, 2, 2, 0)
        runs.append([_without_sequence(event) for event in recorder.events if not isinstance(event, Clip)])
        runs.append([(clip.sha256, clip.about) for clip in recorder.of(Clip)])
    assert runs[:2] == runs[2:]


def test_a_code_is_told_once_with_the_frame_that_shows_it(recorder: EventRecorder, video: Path):
    camera(recorder, video).run()
    frames, codes = recorder.of(Frame), recorder.of(Cid)
    assert [code.code for code in codes] == ["C-1", "C-2"]
    assert [code.seen_in for code in codes] == [frames[20].sha256, frames[50].sha256]
    assert codes[0].captured_at_us == frames[20].captured_at_us == WRITTEN_S * 1_000_000 + 2_000_000


def test_a_clip_holds_the_seconds_around_what_happened(recorder: EventRecorder, video: Path):
    camera(recorder, video, clip_on_code=True).run()
    first, second = sorted(recorder.of(Clip), key=lambda clip: clip.about or "")
    assert probe_of(first.body).video().duration_us == pytest.approx(4_600_000, abs=110_000)
    assert first.body[4:8] == b"ftyp"
    assert first.body.index(b"moov") < first.body.index(b"mdat")
    assert first.captured_at_us == WRITTEN_S * 1_000_000
    assert second.captured_at_us == WRITTEN_S * 1_000_000 + 2_500_000
    assert second.duration_us == pytest.approx(5_000_000, abs=150_000)


def test_a_clip_can_be_asked_for_while_and_after_the_camera_runs(recorder: EventRecorder, video: Path):
    wished = []
    tested_camera = camera(recorder, video, find_codes=False, on_published=lambda event, _: ask(event))

    def ask(event: object) -> None:
        if isinstance(event, Frame) and event.captured_at_us == WRITTEN_S * 1_000_000 + 4_000_000:
            wished.append(tested_camera.clip("now"))

    with pytest.raises(HeadraceError, match="no_frames_yet"):
        tested_camera.clip()
    tested_camera.run()
    assert wished[0].result(0).digest == recorder.of(Clip)[0].sha256
    tested_camera.clip("after").result(0)
    assert [clip.about for clip in recorder.of(Clip)] == ["now", "after"]


def test_a_clip_that_cannot_be_cut_is_a_fault(recorder: EventRecorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(image(1))
    tested_camera = camera(recorder, tmp_path)
    tested_camera.run()
    monkeypatch.setattr(clips, "from_image", lambda _body: None)
    with pytest.raises(RejectedError, match="no frame"):
        tested_camera.clip("l-1").result(0)


def test_frames_a_second_are_chosen_on_a_grid(recorder: EventRecorder, video: Path):
    camera(recorder, video, fps=4, find_codes=False).run()
    at = [(frame.captured_at_us - WRITTEN_S * 1_000_000) / 1_000_000 for frame in recorder.of(Frame)]
    assert at[:5] == pytest.approx([0, 0.3, 0.5, 0.8, 1.0])
    assert len(at) == 32


def test_a_run_ends_after_so_many_frames_or_when_it_is_stopped(recorder: EventRecorder, video: Path):
    assert camera(recorder, video).run(frames_max=7).frames == 7
    tested_camera = camera(recorder, video, on_published=lambda *_: tested_camera.stop())
    assert tested_camera.run().frames == 1


def test_at_its_own_pace_a_file_is_captured_now(recorder: EventRecorder, video: Path):
    began_s = time.monotonic()
    camera(recorder, video, fps=5, realtime=True, find_codes=False).run(frames_max=4)
    assert 0.55 <= time.monotonic() - began_s < 30
    times = [frame.captured_at_us for frame in recorder.of(Frame)]
    assert all(time.time() - 60 < at / 1_000_000 <= time.time() for at in times)
    assert times[3] - times[0] >= 500_000


def test_quality_decides_how_large_a_frame_is(recorder: EventRecorder, video: Path):
    sizes = [camera(recorder, video, jpeg_quality=quality).run(frames_max=3).bytes for quality in (10, 95)]
    assert sizes[0] < sizes[1]
    assert image_header(recorder.of(Frame)[0].body).media_type == "image/jpeg"


def test_what_was_not_acknowledged_is_in_the_report(recorder: EventRecorder, video: Path):
    recorder.fault = HeadraceError("not_delivered", "gone")
    report = camera(recorder, video).run(frames_max=2)
    assert (report.acknowledged, report.failed, report.faults) == (0, 2, ("not_delivered: gone",) * 2)


def test_a_tally_counts_several_cameras_together(recorder: EventRecorder, video: Path):
    tally = DeliveryStats()
    for _ in range(2):
        camera(recorder, video, tally=tally).run(frames_max=2)
    assert tally.counts().acknowledged == 4


class LocalCamera:
    """What OpenCV would give for a camera of this machine."""

    def __init__(self, frames: Iterator[Pixels]) -> None:
        self.frames = frames
        self.released = False

    def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
        return True

    def set(self, *_: object) -> bool:
        return True

    def read(self) -> tuple[bool, Pixels | None]:
        frame = next(self.frames, None)
        return frame is not None, frame

    def release(self) -> None:
        self.released = True


def test_a_camera_of_this_machine_is_captured_now(recorder: EventRecorder, monkeypatch: pytest.MonkeyPatch):
    local = LocalCamera(picture(number, "C-9") for number in range(5))
    monkeypatch.setattr(cv2, "VideoCapture", lambda index: local if index == 3 else None)
    with pytest.raises(HeadraceError, match="camera 3 is not available: it delivers no more frames"):
        camera(recorder, 3, clock_us=lambda: WRITTEN_S * 1_000_000, fps=1000.0).run()
    assert local.released
    assert 1 <= len(recorder.of(Frame)) <= 5
    assert [code.code for code in recorder.of(Cid)] == ["C-9"]
    assert recorder.events[0].captured_at_us == WRITTEN_S * 1_000_000


def test_a_camera_that_is_not_there_is_named(recorder: EventRecorder):
    with pytest.raises(HeadraceError, match="/dev/video97") as missing:
        camera(recorder, 97).run()
    assert missing.value.code == "camera_unavailable"


@pytest.mark.parametrize("content", [b"", b"no video", b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n"])
def test_what_is_no_video_is_named(recorder: EventRecorder, tmp_path: Path, content: bytes):
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    with pytest.raises(HeadraceError, match=r"x\.mp4") as unreadable:
        camera(recorder, path).run()
    assert unreadable.value.code == "video_unreadable"
    assert recorder.events == []


def test_wrong_use_is_said_at_once(recorder: EventRecorder, tmp_path: Path):
    with pytest.raises(HeadraceError, match="source_missing") as missing:
        camera(recorder, tmp_path / "nowhere")
    assert missing.value.exit_code == Exit.USAGE
    with pytest.raises(ValueError, match="fps"):
        camera(recorder, tmp_path, fps=0)
    with pytest.raises(ValueError, match="jpeg_quality"):
        camera(recorder, tmp_path, jpeg_quality=0)
    with pytest.raises(RejectedError):
        Camera(recorder, tmp_path, "a\nb")  # type: ignore[arg-type]


def test_a_gap_is_not_made_up_for():
    pace = FrameSampler(10)
    assert [at for at in (0, 50_000, 100_000, 900_000, 910_000, 1_000_000) if pace.takes(at)] == [
        0,
        100_000,
        900_000,
        1_000_000,
    ]
    assert all(FrameSampler(None).takes(at) for at in (0, 0, 5))


def test_no_thread_is_left(recorder: EventRecorder, video: Path):
    before = threading.active_count()
    camera(recorder, video, clip_on_code=True).run()
    assert threading.active_count() == before


def _without_sequence(event: Frame | Cid) -> tuple[object, ...]:
    return tuple(getattr(event, name) for name in ("captured_at_us", "source_id", "site")) + (
        (event.sha256,) if isinstance(event, Frame) else (event.code, event.seen_in)
    )


def test_a_code_that_cannot_be_published_is_a_named_fault_and_ends_nothing(mock_publisher: Publisher, tmp_path: Path):
    for number, code in enumerate(["A-1", "7" * 7089, "B-1"]):
        segno.make_qr(code).save(tmp_path / f"{number}.png", scale=3)
    published: list[object] = []
    report = Camera(mock_publisher, tmp_path, "cam-1", on_published=lambda event, _: published.append(event)).run()
    assert (report.frames, report.codes, report.failed) == (3, 2, 1)
    assert [event.code for event in published if isinstance(event, Cid)] == ["A-1", "B-1"]
    assert "'77777777777777777777'" in report.faults[0]
    assert "7089 bytes" in report.faults[0]


def halves(width: int = 160, height: int = 120) -> Image.Image:
    """Red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 250
    pixels[:, width // 2 :, 2] = 250
    return Image.fromarray(pixels)


def colour_at(body: bytes, x: int, y: int) -> str:
    red, _, blue = Image.open(io.BytesIO(body)).convert("RGB").getpixel((x, y))
    return "red" if red > 150 > blue else "blue" if blue > 150 > red else "neither"


# The matrix of a movie's track (a, b, c, d), and where its left side is shown then.
TURNS = {
    "unturned": ((1, 0, 0, 1), (160, 120), (5, 60), (155, 60)),
    "clockwise": ((0, 1, -1, 0), (120, 160), (60, 5), (60, 155)),
    "anticlockwise": ((0, -1, 1, 0), (120, 160), (60, 155), (60, 5)),
    "half": ((-1, 0, 0, -1), (160, 120), (155, 60), (5, 60)),
    "mirrored": ((-1, 0, 0, 1), (160, 120), (155, 60), (5, 60)),
    "transposed": ((0, 1, 1, 0), (120, 160), (60, 5), (60, 155)),
}


@pytest.mark.parametrize("turn", TURNS)
def test_frames_of_a_turned_video_are_upright(recorder: EventRecorder, tmp_path: Path, turn: str):
    (a, b, c, d), size, left, right = TURNS[turn]
    path = tmp_path / "v.mp4"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_image(halves())))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    for index, number in zip((0, 1, 3, 4), (a, b, c, d), strict=True):
        struct.pack_into(">i", data, matrix + 4 * index, number << 16)
    path.write_bytes(data)
    camera(recorder, path).run()
    frame = recorder.of(Frame)[0]
    assert (frame.width, frame.height) == size
    assert (colour_at(frame.body or b"", *left), colour_at(frame.body or b"", *right)) == ("red", "blue")


@pytest.mark.parametrize(
    ("form", "media_type"), [("HEIF", "image/heic"), ("AVIF", "image/avif"), ("MPO", "image/jpeg")]
)
def test_a_picture_of_a_phone_is_published_as_it_is(
    recorder: EventRecorder, tmp_path: Path, form: str, media_type: str
):
    exif = Image.Exif()
    exif.get_ifd(0x8769).update({0x9003: "2025:11:24 03:06:40", 0x9011: "+01:00"})
    halves().save(tmp_path / "IMG_1", form, exif=exif.tobytes())
    camera(recorder, tmp_path / "IMG_1").run()
    frame = recorder.of(Frame)[0]
    assert (frame.media_type, frame.width, frame.height) == (media_type, 160, 120)
    assert frame.body == (tmp_path / "IMG_1").read_bytes()
    assert frame.captured_at_us == 1_763_950_000_000_000
    assert orjson.loads(frame.attributes)["captured_at_from"] == "exif"


@pytest.mark.parametrize("form", ["GIF", "BMP", "TIFF"])
def test_a_picture_that_is_not_taken_is_refused_by_name_and_not_decoded_as_a_video(
    recorder: EventRecorder, tmp_path: Path, form: str
):
    halves().save(tmp_path / "a.jpg", form)
    with pytest.raises(HeadraceError, match=form):
        camera(recorder, tmp_path / "a.jpg").run()
    assert "not taken" in camera(recorder, tmp_path).run().faults[0]
