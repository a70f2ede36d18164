"""The sink's spool: what a disk and other processes may do to it."""

import os
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from headrace.ldo_sink import LdoSink
from headrace.ldo_sink import sink as sinks
from headrace.ldo_sink.spool import LdoSpool, SpoolFullError
from tests.ldo_sink.ldo_service import WAIT_S, Server, nobody, waiting
from tests.waiting import until

pytestmark = pytest.mark.server


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
        assert [post.video for post in server.received] == [b"clip %d" % number for number in range(20)]
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


def test_a_child_leaves_a_temporary_spool_to_its_parent(
    server: Server, sink_of: Callable[..., LdoSink], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    sink = sink_of(server.url, DATA_INGESTION_SPOOL=str(tmp_path / "file" / "spool"))
    sink.send("before")
    assert sink.flush(WAIT_S)
    if (child := os.fork()) == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    sink.send("after")
    assert sink.flush(WAIT_S)
    assert server.ids() == ["before", "after"]
    assert sink.counts().dropped == {}


def test_processes_share_a_spool_and_take_over_what_others_left(tmp_path: Path) -> None:
    first, other = LdoSpool(tmp_path, 100_000), LdoSpool(tmp_path, 100_000)
    first.add(b"{}", None)
    other.add(b"{}", b"clip")
    other.add(b"{}", None)
    other.close()
    (tmp_path / "001" / "1.part").write_bytes(b"of a process that was killed")
    third = LdoSpool(tmp_path, 100_000)
    assert (len(first), len(third)) == (1, 2)
    first.close()
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
