import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from headrace.cli import publish
from headrace.producers import Camera, Publisher
from headrace.runtime.errors import HeadraceError
from headrace.runtime.settings import Settings
from tests.processes import free_port
from tests.producers.conftest import MOCK
from tests.producers.sample_media import image, write_video


@pytest.fixture(autouse=True)
def _mock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "client_settings", lambda: Settings(_env_file=None))
    monkeypatch.setattr(Publisher, "from_settings", lambda _settings, **_: Publisher("mock", client=MOCK))


def run(*args: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(publish.publish_app, [str(arg) for arg in args], input=stdin)


def said(result: Result) -> dict[str, Any]:
    return json.loads(result.stdout.splitlines()[-1])


def test_frames_of_files_folders_and_videos(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(image(1, "C-1"))
    (tmp_path / "b.jpg").write_bytes(image(2, kind=".jpg"))
    write_video(tmp_path / "v.mp4", 2)
    result = run(
        "frame",
        tmp_path / "folder",
        tmp_path / "b.jpg",
        tmp_path / "v.mp4",
        "--source",
        "cam-1",
        "--fps",
        "5",
        "--frames-max",
        "4",
        "--json",
    )
    assert result.exit_code == 0
    assert said(result)["by_kind"] == {"cid": 1, "frame": 6, "clip": 0, "ldo": 0}
    assert (said(result)["published"], said(result)["acknowledged"], said(result)["failed"]) == (7, 7, 0)
    assert said(result)["bytes"] > 1000
    assert "7 acknowledged, 0 failed" in result.stderr
    assert result.stdout.count("\n") == 1


def test_what_fails_is_named_and_the_others_go_on(tmp_path: Path):
    (tmp_path / "bad.mp4").write_text("no video")
    (tmp_path / "good.png").write_bytes(image(1))
    result = run("frame", tmp_path / "bad.mp4", tmp_path / "good.png", "--source", "cam-1", "--json")
    assert result.exit_code == 1
    assert (said(result)["acknowledged"], said(result)["failed"]) == (1, 1)
    assert "bad.mp4" in said(result)["faults"][0]
    assert "bad.mp4" in result.stderr


def test_clips(tmp_path: Path):
    write_video(tmp_path / "v.mp4", 1)
    (tmp_path / "bad.mp4").write_text("no video")
    result = run("clip", tmp_path / "v.mp4", tmp_path / "bad.mp4", "--source", "cam-1", "--about", "l-1", "--json")
    assert result.exit_code == 1
    assert (said(result)["acknowledged"], said(result)["failed"]) == (1, 1)
    assert said(result)["bytes"] == (tmp_path / "v.mp4").stat().st_size


def test_codes_as_arguments_and_as_lines():
    result = run("cid", "C-1", "-", "C-4", "--source", "s", "--json", stdin=b"C-2\n\nC-3\r\n\xff\n")
    assert result.exit_code == 1
    assert (said(result)["acknowledged"], said(result)["failed"]) == (4, 1)
    assert "surrogate" in said(result)["faults"][0]


def test_ldos_as_json_lines(tmp_path: Path):
    write_video(tmp_path / "v.mp4", 1)
    ldo: dict[str, object] = {"ldo_id": "l-1", "sensor_data": {}, "context": {}, "prediction": {}}
    good, bad = json.dumps(ldo | {"clip": "v.mp4"}), json.dumps(ldo | {"clip": "none.mp4"})
    (tmp_path / "l.jsonl").write_text(f"{good}\n{bad}\n{{}}\n")
    missing = tmp_path / "none.jsonl"
    result = run("ldo", tmp_path / "l.jsonl", "-", missing, "--source", "d", "--json", stdin=json.dumps(ldo).encode())
    assert result.exit_code == 1
    assert said(result)["by_kind"] == {"cid": 0, "frame": 0, "clip": 1, "ldo": 2}
    assert said(result)["failed"] == 3
    assert "l.jsonl, line 2: No such file" in said(result)["faults"][0]
    assert "l.jsonl, line 3" in said(result)["faults"][1]
    assert str(missing) in said(result)["faults"][2]


def test_a_line_without_end_is_refused():
    result = run("cid", "-", "--source", "d", stdin=b"x" * (publish.LINE_BYTES_MAX + 1))
    assert isinstance(result.exception, HeadraceError)
    assert (result.exception.code, result.exception.exit_code) == ("line_too_long", 2)


@pytest.mark.parametrize(
    "args",
    [
        ("frame", "--source", "s"),
        ("frame", "/nowhere/at-all", "--source", "s"),
        ("frame", "--camera", "-1", "--source", "s"),
        ("cid", "C-1"),
        ("cid", "C-1", "--source", "a\nb"),
        ("cid", "C-1", "--source", "s", "--site", ""),
        ("clip", "--source", "s"),
        ("clip", "/nowhere/at-all.mp4", "--source", "s"),
        ("nothing",),
    ],
)
def test_wrong_use_is_2(args: tuple[str, ...]):
    result = run(*args)
    assert result.exit_code == 2
    assert "Error" in result.stderr
    assert result.stdout == ""


def test_a_broker_that_is_not_there_is_3(monkeypatch: pytest.MonkeyPatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setattr(Publisher, "from_settings", lambda *_, **__: Publisher(address, start_wait_s_max=0.1))
    result = run("cid", "C-1", "--source", "s")
    assert isinstance(result.exception, HeadraceError)
    assert result.exception.exit_code == 3
    assert address in str(result.exception)


def test_ctrl_c_ends_a_run_and_sums_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_video(tmp_path / "v.mp4", 2)
    stop = Camera.stop
    stopped = []
    monkeypatch.setattr(Camera, "stop", lambda camera: (stopped.append(camera), stop(camera)))
    take = Camera._take

    def interrupted(camera: Camera, video_frame: Any) -> None:
        take(camera, video_frame)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Camera, "_take", interrupted)
    before = signal.getsignal(signal.SIGINT)
    result = run("frame", tmp_path / "v.mp4", "--source", "cam-1", "--json")
    assert (result.exit_code, said(result)["acknowledged"], len(stopped)) == (0, 1, 1)
    assert signal.getsignal(signal.SIGINT) is before
