from pathlib import Path

import pytest

from headrace.producers import Device
from headrace.producers.source import SequenceCounter
from headrace.schemas.digest import canonical_body
from headrace.schemas.events import Cid, Clip, Ldo
from headrace.schemas.reject import RejectCode, RejectedError
from tests.producers.conftest import EventRecorder
from tests.producers.sample_media import write_video

NOW_US = 1_700_000_000_000_000


def device(recorder: EventRecorder) -> Device:
    return Device(recorder, "dev-1", "halle", clock_us=lambda: NOW_US)  # type: ignore[arg-type]


def test_a_scan_says_who_where_when_and_what(recorder: EventRecorder):
    tested_device = device(recorder)
    tested_device.scan("C-1")
    tested_device.scan("C-2", "DataMatrix", captured_at_us=NOW_US - 5)
    assert recorder.events == [
        Cid(source_id="dev-1", site="halle", captured_at_us=NOW_US, sequence=NOW_US, code="C-1"),
        Cid(
            source_id="dev-1",
            site="halle",
            captured_at_us=NOW_US - 5,
            sequence=NOW_US + 1,
            code="C-2",
            symbology="DataMatrix",
        ),
    ]


def test_a_report_with_a_clip_names_it(recorder: EventRecorder, tmp_path: Path):
    path = write_video(tmp_path / "clip.mp4", 1)
    for clip in (path, path.read_bytes()):
        recorder.events.clear()
        done = device(recorder).report("l-1", sensor_data={"t": 1}, context={}, prediction={"p": 0.5}, clip=clip)
        ldo, sent_clip = recorder.events
        assert isinstance(ldo, Ldo)
        assert isinstance(sent_clip, Clip)
        assert ldo.clip_sha256 == sent_clip.sha256
        assert (sent_clip.about, sent_clip.duration_us, sent_clip.captured_at_us) == (
            "l-1",
            1_000_000,
            ldo.captured_at_us,
        )
        assert done.ldo.done()
        assert done.clip is not None
        canonical_body(ldo)


def test_a_report_without_a_clip_has_no_second_delivery(recorder: EventRecorder):
    assert device(recorder).report("l-1", sensor_data={}, context={}, prediction={}).clip is None


def test_what_is_no_json_and_what_is_no_clip_is_refused(recorder: EventRecorder):
    with pytest.raises(RejectedError, match="JSON") as refused:
        device(recorder).report("l-1", sensor_data={"a": object()}, context={}, prediction={})
    assert refused.value.code is RejectCode.NOT_JSON
    with pytest.raises(RejectedError) as refused:
        device(recorder).report("l-1", sensor_data={}, context={}, prediction={}, clip=b"#EXTM3U")
    assert refused.value.code is RejectCode.NOT_A_VIDEO
    assert recorder.events == []


def test_a_name_that_no_agent_would_take_is_refused_before_anything_is_published(recorder: EventRecorder):
    with pytest.raises(RejectedError):
        Device(recorder, "a\nb")  # type: ignore[arg-type]
    with pytest.raises(RejectedError):
        Device(recorder, "a", "")  # type: ignore[arg-type]


def test_numbers_increase_also_across_restarts():
    first = SequenceCounter(lambda: 100)
    used = [first.next() for _ in range(5)]
    assert used == [100, 101, 102, 103, 104]
    assert SequenceCounter(lambda: 106).next() > used[-1]
