"""The sink in its host: what it sends, and what a host may do to it."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headrace.ldo_sink import LdoSink, from_env
from headrace.ldo_sink import sink as sinks
from tests.ldo_sink.ldo_service import WAIT_S, Server, waiting


def test_an_ldo_arrives_with_its_video(server: Server, sink_of: Callable[..., LdoSink], tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"from a file\r\n--\x00")
    sink = sink_of(server.url)
    assert sink.send(
        "a", sensor_data={"torque": 1.5}, context={"shift": 2}, prediction={"label": "good"}, video=b"\0\r\n"
    )
    assert sink.send("b", context={"timestamp": 1_790_000_000}, video=str(tmp_path / "clip.mp4"))
    assert sink.send("c")
    assert sink.flush(WAIT_S)
    first, second, third = server.received
    captured_at = first.metadata.pop("captured_at")
    assert abs(captured_at - time.time()) < 600
    assert first.metadata == {
        "ldo_id": "a",
        "sensor_data": {"torque": 1.5},
        "context": {"shift": 2},
        "prediction": {"label": "good"},
    }
    assert (first.video, second.video, third.video) == (b"\0\r\n", b"from a file\r\n--\x00", None)
    assert "captured_at" not in second.metadata
    assert len({post.key for post in server.received}) == 3
    assert (sink.counts().sent, sink.counts().waiting, sink.counts().dropped) == (3, 0, {})
    assert waiting(tmp_path) == 0


@pytest.mark.parametrize("switch", [None, "", "false", "0", "no", "maybe"])
def test_it_is_off_unless_it_is_turned_on(server: Server, tmp_path: Path, switch: str | None) -> None:
    given = {"DATA_INGESTION_URL": server.url, "DATA_INGESTION_SPOOL": str(tmp_path / "spool")}
    threads = threading.active_count()
    sink = from_env(given if switch is None else given | {"USE_DATA_INGESTION": switch})
    assert not sink.is_on
    assert not sink.send("a", sensor_data={"x": object()})
    assert sink.flush(1)
    sink.close()
    assert threading.active_count() == threads
    assert (sink.counts().sent, sink.counts().dropped, server.received) == (0, {}, [])
    assert not (tmp_path / "spool").exists()


def test_what_is_not_json_is_counted_and_arrays_are_written_out(
    server: Server, sink_of: Callable[..., LdoSink]
) -> None:
    import numpy as np

    sink = sink_of(server.url)
    deep: dict[str, Any] = {}
    deep["again"] = deep
    for bad in ({"x": object()}, {"x": float("nan")}, {"x": np.float32("inf")}, deep, {"x": "y" * (1 << 20)}):
        assert not sink.send("bad", sensor_data=bad)
    assert not sink.send("bad", context="text")  # type: ignore[arg-type]
    assert not sink.send("bad", video=7)  # type: ignore[arg-type]
    assert sink.send("bad", video="a path\0 that is none")
    assert sink.send("good", sensor_data={"mean": np.float32(0.5), "row": np.arange(3)})
    assert sink.flush(WAIT_S)
    assert server.received[-1].metadata["sensor_data"] == {"mean": 0.5, "row": [0, 1, 2]}
    assert sink.counts().dropped == {"unusable": 7, "spool_failed": 1}


def test_a_host_is_never_held_up_by_a_disk_that_hangs(server: Server, sink_of: Callable[..., LdoSink]) -> None:
    sink = sink_of(server.url)
    assert sink.send("first")
    assert sink.flush(WAIT_S)
    with sink._keeping:
        # Nothing leaves the queue: what does not fit is dropped, and nobody waits.
        taken = [sink.send(f"{number}") for number in range(sinks.QUEUE_LDOS_MAX + 50)]
        assert taken == [True] * sinks.QUEUE_LDOS_MAX + [False] * 50
        assert sink.counts().dropped == {"queue_full": 50}
        assert sink.counts().waiting == sinks.QUEUE_LDOS_MAX
    assert sink.flush(WAIT_S)
    assert sink.counts().sent == sinks.QUEUE_LDOS_MAX + 1
    assert sink.send("x", video=b"0" * sinks.QUEUE_BYTES_MAX) is False


@pytest.mark.server
def test_the_end_of_a_process_is_soon_and_what_it_could_not_send_is_kept(server: Server, tmp_path: Path) -> None:
    # The service takes connections and never answers.
    server.pause.clear()
    script = (
        "import headrace.ldo_sink as ldo_sink\n"
        "sink = ldo_sink.from_env()\n"
        "for number in range(3): assert sink.send(f'{number}')\n"
    )
    env = {
        **os.environ,
        "USE_DATA_INGESTION": "True",
        "DATA_INGESTION_URL": server.url,
        "DATA_INGESTION_SPOOL": str(tmp_path / "spool"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert waiting(tmp_path) == 3


@pytest.mark.server
def test_a_child_process_sends_its_own(server: Server, tmp_path: Path) -> None:
    script = (
        "import os, headrace.ldo_sink as ldo_sink\n"
        "sink = ldo_sink.from_env()\n"
        "sink.send('parent'); sink.flush(20)\n"
        "if (child := os.fork()) == 0:\n"
        "    sink.send('child'); os._exit(0 if sink.flush(20) and sink.counts().sent == 1 else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
    )
    env = {
        **os.environ,
        "USE_DATA_INGESTION": "1",
        "DATA_INGESTION_URL": server.url,
        "DATA_INGESTION_SPOOL": str(tmp_path / "spool"),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert server.ids() == ["parent", "child"]


def test_a_host_loads_nothing_but_the_standard_library() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import headrace; assert not headrace.ldo_sink.from_env({}).is_on\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - set(sys.stdlib_module_names)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["headrace"]
