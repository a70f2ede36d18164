import pytest

from headrace.producers import Camera
from headrace.producers.rtsp_frames import is_stream, shown
from headrace.runtime.errors import HeadraceError
from headrace.schemas.events import Frame
from tests.gateway.rtsp_server import FakeCamera
from tests.processes import free_port
from tests.producers.conftest import EventRecorder


def test_a_stream_is_shown_without_login_and_path() -> None:
    assert shown("rtsp://user:p@ss/word@10.0.0.7:554/s?token=1") == "rtsp://10.0.0.7:554"
    assert is_stream("RTSP://10.0.0.7/s")
    assert not is_stream("video.mp4")


@pytest.mark.server
def test_the_frames_of_a_stream_are_published(recorder: EventRecorder) -> None:
    with FakeCamera() as camera:
        report = Camera(recorder, camera.url(), "cam-1", find_codes=False).run(3)
    assert report.frames == 3
    assert {(frame.width, frame.height) for frame in recorder.of(Frame)} == {(320, 240)}


@pytest.mark.server
def test_a_stream_that_is_away_is_named_without_its_password(recorder: EventRecorder) -> None:
    camera = Camera(recorder, f"rtsp://user:secret@127.0.0.1:{free_port()}/s", "cam-1")
    with pytest.raises(HeadraceError, match="the stream cannot be read") as caught:
        camera.run(1)
    assert "secret" not in str(caught.value)
