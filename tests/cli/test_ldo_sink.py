"""The sink against an HTTP server, and against what a host, a disk and a network may do to it."""

import email
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from headrace.ldo_sink import LdoSink, from_env
from headrace.ldo_sink import request as requests
from headrace.ldo_sink import sink as sinks
from headrace.ldo_sink.post import LdoService
from headrace.ldo_sink.spool import LdoSpool, SpoolFullError
from tests.conftest import free_port, until

WAIT_S = 30.0


class ReceivedBody:
    """What one request said."""

    def __init__(self, headers: Any, body: bytes) -> None:
        self.key = headers["Idempotency-Key"]
        self.login = headers["Authorization"]
        form = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        self.metadata = json.loads(parts["metadata"].get_payload(decode=True))
        self.video = parts["video"].get_payload(decode=True) if "video" in parts else None


class Server:
    """An LDO service; `answers` are given one after the other, then 200."""

    def __init__(self, port: int = 0) -> None:
        self.received: list[ReceivedBody] = []
        self.answers: list[int] = []
        self.pause = threading.Event()
        self.pause.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/ingest/ldo"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.received.append(ReceivedBody(self.headers, body))
                outer.pause.wait(WAIT_S)
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True)
        self._thread.start()

    def ids(self) -> list[str]:
        return [one.metadata["ldo_id"] for one in self.received]

    def close(self) -> None:
        self.pause.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries come soon."""
    monkeypatch.setattr(requests, "DELAY_S", 0.02)
    monkeypatch.setattr(requests, "DELAY_S_MAX", 0.2)


@pytest.fixture
def server() -> Iterator[Server]:
    opened = Server()
    yield opened
    opened.close()


@pytest.fixture
def sink_of(tmp_path: Path) -> Iterator[Callable[..., LdoSink]]:
    """Sinks as an environment turns them on, closed when the test is over."""
    opened: list[LdoSink] = []

    def make(url: str, **given: str) -> LdoSink:
        opened.append(
            from_env(
                {
                    "USE_DATA_INGESTION": "true",
                    "DATA_INGESTION_URL": url,
                    "DATA_INGESTION_SPOOL": str(tmp_path / "spool"),
                    **given,
                }
            )
        )
        return opened[-1]

    yield make
    for one in opened:
        one.close(2.0)


@contextmanager
def nobody() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


def waiting(path: Path) -> int:
    return len([*path.rglob("*.ldo")])


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
    assert len({one.key for one in server.received}) == 3
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


@pytest.mark.parametrize("url", ["", "data-ingestion:8001", "ftp://host", "http://", "http://host:port", "http://["])
def test_an_address_that_is_none_breaks_nothing_and_is_counted(
    sink_of: Callable[..., LdoSink], url: str, caplog: pytest.LogCaptureFixture
) -> None:
    sink = sink_of(url)
    assert not sink.send("a")
    assert sink.counts().dropped == {"no_address": 1}
    assert "DATA_INGESTION_URL is not usable" in caplog.text


def test_a_login_in_the_address_is_sent_as_basic_and_said_nowhere(
    server: Server, sink_of: Callable[..., LdoSink], caplog: pytest.LogCaptureFixture
) -> None:
    server.answers = [503]
    sink = sink_of(server.url.replace("//", "//edge:hr_s%40cret@"))
    sink.send("a")
    assert sink.flush(WAIT_S)
    assert {one.login for one in server.received} == {"Basic ZWRnZTpocl9zQGNyZXQ="}
    assert "503" in caplog.text
    assert "cret" not in caplog.text


@pytest.mark.parametrize("status", [500, 502, 503, 429, 401, 403, 404, 409, 302])
def test_what_may_pass_is_tried_again_under_the_same_key(
    server: Server, sink_of: Callable[..., LdoSink], status: int
) -> None:
    server.answers = [status, status]
    sink = sink_of(server.url)
    sink.send("a")
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a", "a", "a"]
    assert len({one.key for one in server.received}) == 1
    assert (sink.counts().sent, sink.counts().dropped) == (1, {})


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_is_refused_is_counted_and_holds_up_nothing(
    server: Server, sink_of: Callable[..., LdoSink], status: int
) -> None:
    server.answers = [status]
    sink = sink_of(server.url)
    sink.send("a")
    sink.send("b")
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a", "b"]
    assert (sink.counts().sent, sink.counts().dropped) == (1, {"refused": 1})


def test_a_service_that_refuses_a_video_while_it_comes_is_heard(sink_of: Callable[..., LdoSink]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def refuse() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    connection.recv(1024)
                    connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    connection.close()

        threading.Thread(target=refuse, daemon=True).start()
        sink = sink_of(f"http://127.0.0.1:{listening.getsockname()[1]}")
        sink.send("a", video=b"0" * 20_000_000)
        assert sink.flush(WAIT_S)
        assert sink.counts().dropped == {"refused": 1}
        listening.shutdown(socket.SHUT_RDWR)


def test_one_whose_first_request_is_still_at_work_lets_the_others_pass(
    server: Server, sink_of: Callable[..., LdoSink]
) -> None:
    server.pause.clear()
    server.answers = [409]
    sink = sink_of(server.url)
    for name in "abc":
        sink.send(name)
    server.pause.set()
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a", "b", "c", "a"]
    assert len({one.key for one in server.received}) == 3


def test_one_that_always_breaks_the_service_lets_the_others_pass(
    server: Server, sink_of: Callable[..., LdoSink]
) -> None:
    server.pause.clear()
    server.answers = [500] * sinks.ATTEMPTS_MAX
    sink = sink_of(server.url)
    for name in "abc":
        sink.send(name)
    server.pause.set()
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a"] * sinks.ATTEMPTS_MAX + ["b", "c", "a"]


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


def test_what_comes_while_a_service_does_not_answer_goes_to_the_spool(
    server: Server, sink_of: Callable[..., LdoSink], tmp_path: Path
) -> None:
    """One request may take minutes, and many more LDOs come meanwhile than the queue holds."""
    server.pause.clear()
    sink = sink_of(server.url)
    assert sink.send("first")
    until(lambda: server.received, WAIT_S, "the first request")
    count = 2 * sinks.QUEUE_LDOS_MAX
    for number in range(count):
        assert sink.send(f"{number}")
        until(lambda: sink._queue.qsize() < sinks.QUEUE_LDOS_MAX, WAIT_S, "room in the queue")
    until(lambda: waiting(tmp_path) == count + 1, WAIT_S, "all of them to be on the disk")
    assert len(server.received) == 1
    assert sink.counts().dropped == {}
    server.pause.set()
    assert sink.flush(WAIT_S)
    assert server.ids() == ["first", *(f"{number}" for number in range(count))]


@pytest.mark.timeout(60)
def test_a_video_that_is_no_file_or_that_grows(server: Server, tmp_path: Path, sink_of: Callable[..., LdoSink]) -> None:
    os.mkfifo(tmp_path / "fifo")
    sink = sink_of(server.url)
    for video in (tmp_path / "fifo", "/dev/zero", tmp_path):
        assert sink.send("bad", video=video)
    assert sink.send("good", video=b"clip")
    assert sink.flush(WAIT_S)
    assert sink.counts().dropped == {"spool_failed": 3}
    assert server.ids() == ["good"]
    spool = LdoSpool(tmp_path / "other", 1_000_000)
    with (tmp_path / "grows").open("wb", buffering=0) as video:
        video.write(b"begun")

        class Growing(BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                return b"begun" * 100 if size is None or size < 0 else (b"begun" * 100)[:size]

        spool._add(b"{}", Growing(), 5)
    path = spool.first()
    assert path is not None
    assert path.read_bytes().count(b"begun") == 1
    spool.close()


def test_a_spool_counts_the_blocks_of_a_disk_and_finds_its_oldest_at_once(tmp_path: Path) -> None:
    spool = LdoSpool(tmp_path, 40 * 4096)
    for number in range(40):
        spool.add(b'{"number": %d}' % number, None)
    with pytest.raises(SpoolFullError):
        spool.add(b"{}", None)
    oldest = spool.first()
    assert oldest is not None
    assert b'"number": 0' in oldest.read_bytes()
    spool.remove(oldest)
    spool.add(b"{}", None)
    spool.close()
    again = LdoSpool(tmp_path, 40 * 4096)
    with pytest.raises(SpoolFullError):
        again.add(b"{}", None)
    again.close()


def test_what_is_not_sent_is_in_the_spool_and_goes_out_after_the_next_start(
    sink_of: Callable[..., LdoSink], tmp_path: Path
) -> None:
    with nobody() as url:
        sink = sink_of(url)
        for number in range(20):
            assert sink.send(f"{number}", video=b"clip %d" % number)
        sink.close(1.0)
        assert not sink.send("too late")
        assert (waiting(tmp_path), sink.counts().waiting) == (20, 20)
        assert sink.counts().dropped == {"closed": 1}
        server = Server(int(url.rpartition(":")[2]))
        again = sink_of(url)
        assert again.flush(WAIT_S)
        assert server.ids() == [f"{number}" for number in range(20)]
        assert [one.video for one in server.received] == [b"clip %d" % number for number in range(20)]
        server.close()


def test_a_spool_that_is_full_drops_what_comes_and_keeps_what_it_has(
    sink_of: Callable[..., LdoSink], tmp_path: Path
) -> None:
    with nobody() as url:
        sink = sink_of(url, DATA_INGESTION_SPOOL_MIB="1")
        for number in range(10):
            sink.send(f"{number}", video=b"0" * 200_000)
        until(lambda: sink.counts().dropped.get("spool_full") == 5, WAIT_S, "the spool to be full")
        assert waiting(tmp_path) == 5


def test_a_spool_that_cannot_be_written_is_replaced_and_a_video_that_is_gone_is_counted(
    server: Server,
    sink_of: Callable[..., LdoSink],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    sink = sink_of(server.url, DATA_INGESTION_SPOOL=str(tmp_path / "file" / "spool"))
    sink.send("a")
    sink.send("b", video=tmp_path / "gone.mp4")
    assert sink.flush(WAIT_S)
    assert server.ids() == ["a"]
    assert sink.counts().dropped == {"spool_failed": 1}
    assert "cannot write to" in caplog.text
    sink.close()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_processes_share_a_spool_and_take_over_what_others_left(tmp_path: Path) -> None:
    one, other = LdoSpool(tmp_path, 100_000), LdoSpool(tmp_path, 100_000)
    one.add(b"{}", None)
    other.add(b"{}", b"clip")
    other.add(b"{}", None)
    other.close()
    (tmp_path / "001" / "1.part").write_bytes(b"of a process that was killed")
    third = LdoSpool(tmp_path, 100_000)
    assert (len(one), len(third)) == (1, 2)
    one.close()
    third.close()
    fourth = LdoSpool(tmp_path, 100_000)
    assert len(fourth) == 3
    assert waiting(tmp_path) == 3
    assert [*tmp_path.rglob("*.part")] == []
    fourth.close()


def test_a_spool_leaves_nothing_half_written(tmp_path: Path) -> None:
    spool = LdoSpool(tmp_path, 100_000)
    with pytest.raises(SpoolFullError):
        spool.add(b"{}", b"0" * 200_000)
    with pytest.raises(OSError):
        spool.add(b"{}", tmp_path)
    spool.close()
    (tmp_path / "000" / "1.part").write_bytes(b"of a process that was killed")
    again = LdoSpool(tmp_path, 100)
    assert [*tmp_path.rglob("*.*")] == []
    again.close()


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


def test_waits_grow_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waits = [requests.delay_s(failures, None, 1.0) for failures in range(1, 10)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert requests.delay_s(10_000, "nonsense", 0.0) == 30
    assert requests.delay_s(1, "7", 1.0) == 7
    assert requests.delay_s(1, "86400", 1.0) == 60


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("https://u:p@host/prefix/", "https://host"),
        ("http://[::1]:8001", "http://[::1]:8001"),
        ("http://h", "http://h"),
    ],
)
def test_where_it_sends_is_said_without_the_login(url: str, where: str) -> None:
    assert LdoService(url).where == where
