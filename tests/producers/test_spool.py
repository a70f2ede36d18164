"""The spool: what was accepted is there after anything, in its order, and nothing else is."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.producers.spool.segments import HEAD_BYTES, START_BYTES, Segment, SpoolEntry, pack_entry
from headrace.producers.spool.spool import Spool
from headrace.producers.spool.state import STATE
from headrace.runtime.crash_points import VARIABLE
from headrace.runtime.errors import Exit, HeadraceError

ROOT = Path(__file__).parents[2]


def message(number: int, *, source: str = "cam-1", size_bytes: int = 20) -> SpoolEntry:
    return SpoolEntry(
        "edge.cids.v1", source.encode(), [("ce_id", b"%d" % number), ("t", b"")], bytes([number % 256]) * size_bytes
    )


def read_all(spool: Spool) -> list[tuple[int, SpoolEntry]]:
    entries = []
    while (entry := spool.next(0)) is not None:
        entries.append(entry)
    return entries


def filled(directory: Path, count: int, **options: int) -> list[SpoolEntry]:
    sent = [message(number, **options) for number in range(count)]
    spool = Spool(directory)
    for entry in sent:
        spool.append(entry)
    spool.close()
    return sent


def test_what_was_appended_comes_out_in_order(tmp_path: Path):
    spool = Spool(tmp_path / "a" / "spool")
    sent = [message(number, size_bytes=number * 1000) for number in range(20)]
    assert [spool.append(entry) for entry in sent] == list(range(20))
    assert spool.waiting == 20
    assert read_all(spool) == list(enumerate(sent))
    assert spool.next(0.01) is None
    spool.close()
    spool.close()
    with pytest.raises(HeadraceError, match="spool_closed"):
        spool.append(message(1))


def test_a_restart_goes_on_where_the_acknowledgements_ended(tmp_path: Path):
    sent = filled(tmp_path, 10)
    spool = Spool(tmp_path)
    for number, _ in read_all(spool):
        if number not in {4, 7}:
            spool.acknowledge(number)
    assert spool.waiting == 6, "everything from the oldest that is not acknowledged"
    spool.close()
    spool = Spool(tmp_path)
    assert spool.append(message(10)) == 10
    assert [number for number, _ in read_all(spool)] == [4, 5, 6, 7, 8, 9, 10]
    spool.rewind()
    assert read_all(spool)[0] == (4, sent[4])
    spool.close()


def test_files_go_when_everything_in_them_is_acknowledged(tmp_path: Path):
    spool = Spool(tmp_path, bytes_max=80_000)
    for number in range(30):
        spool.append(message(number, size_bytes=3000))
        (entry,) = read_all(spool)
        spool.acknowledge(entry[0])
    assert spool.next(0) is None
    assert len(list(tmp_path.glob("*.segment"))) <= 2
    assert spool.waiting == 0
    spool.close()
    spool = Spool(tmp_path)
    assert spool.append(message(1)) == 30, "numbers are never used again"
    assert spool.damaged == 0
    spool.close()


def test_when_it_is_full_the_oldest_goes_and_is_counted_by_source(tmp_path: Path):
    dropped: list[int] = []
    spool = Spool(tmp_path, bytes_max=80_000, dropped=lambda first, end: dropped.extend(range(first, end)))
    for number in range(60):
        spool.append(message(number, source=f"cam-{number % 2}", size_bytes=4000))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.segment")) <= 80_000
    assert dropped == list(range(len(dropped)))
    assert spool.dropped_of("cam-0") + spool.dropped_of("cam-1") == len(dropped) > 30
    spool.close()
    spool = Spool(tmp_path, bytes_max=80_000)
    assert [number for number, _ in read_all(spool)] == list(range(len(dropped), 60))
    assert spool.dropped_of("cam-0") + spool.dropped_of("cam-1") == len(dropped), "counted once, also after a restart"
    assert spool.damaged == 0, "what was dropped is not missing"
    spool.close()


def test_what_is_on_its_way_is_never_dropped(tmp_path: Path):
    dropped: set[int] = set()
    spool = Spool(tmp_path, bytes_max=80_000, dropped=lambda first, end: dropped.update(range(first, end)))
    for number in range(10):
        spool.append(message(number, size_bytes=5000))
    under_way = {number for number, _ in read_all(spool)}
    for number in range(15):
        spool.append(message(number, size_bytes=5000))
    assert dropped
    assert not dropped & under_way
    with pytest.raises(HeadraceError, match="spool_full"):  # noqa: PT012
        for number in range(15):
            under_way |= {number for number, _ in read_all(spool)}
            spool.append(message(number, size_bytes=5000))
    assert not dropped & under_way
    for number in under_way:
        spool.acknowledge(number)
    spool.append(message(1, size_bytes=5000))
    spool.close()


def test_one_process_at_a_time(tmp_path: Path):
    spool = Spool(tmp_path)
    with pytest.raises(HeadraceError, match="another process") as refused:
        Spool(tmp_path)
    assert refused.value.code == "spool_in_use"
    assert str(tmp_path) in str(refused.value)
    spool.close()
    Spool(tmp_path).close()


def test_a_full_disk_is_said_and_loses_nothing_that_was_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spool = Spool(tmp_path)
    spool.append(message(0))

    def half(self: Segment, data: bytes) -> None:
        os.pwrite(self.descriptor, data[: len(data) // 2], self.size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Segment, "append", half)
        with pytest.raises(HeadraceError, match="No space left on device") as refused:
            spool.append(message(1))
    assert refused.value.code == "spool_write_failed"
    assert spool.append(message(2)) == 1
    assert [entry for _, entry in read_all(spool)] == [message(0), message(2)]
    spool.close()
    again = Spool(tmp_path)
    assert [entry for _, entry in read_all(again)] == [message(0), message(2)]
    again.close()


def test_many_threads_share_an_fsync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    spool, synced, fsync = Spool(tmp_path), [], os.fsync

    def slow(descriptor: int) -> None:
        synced.append(descriptor)
        time.sleep(0.02)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    threads = [threading.Thread(target=spool.append, args=(message(number),)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(synced) < 20
    monkeypatch.undo()
    assert sorted(entry.value for _, entry in read_all(spool)) == sorted(message(number).value for number in range(40))
    spool.close()


def test_a_lost_state_costs_repeats_and_nothing_else(tmp_path: Path):
    sent = filled(tmp_path, 5)
    (tmp_path / STATE).write_bytes(b"{}\n00000000")
    spool = Spool(tmp_path)
    assert [entry for _, entry in read_all(spool)] == sent
    spool.close()


def test_an_entry_within_a_body_is_none(tmp_path: Path):
    """Also where the entry around it is damaged and the reading looks for the next one."""
    spool = Spool(tmp_path)
    inner = pack_entry(b"\0" * 16, 1, message(66))
    spool.append(SpoolEntry("edge.frames.v1", b"cam-1", [], b"x" * 100 + inner * 3))
    spool.append(message(1))
    spool.close()
    path = next(tmp_path.glob("*.segment"))
    flip(path, START_BYTES + HEAD_BYTES + 40)
    spool = Spool(tmp_path)
    assert read_all(spool) == [(1, message(1))]
    assert spool.damaged == 1
    spool.close()


def test_what_is_damaged_is_counted_once_however_often_it_is_read(tmp_path: Path):
    filled(tmp_path, 6)
    path = next(tmp_path.glob("*.segment"))
    entry_bytes = (path.stat().st_size - START_BYTES) // 6
    for number in (2, 3):
        flip(path, START_BYTES + number * entry_bytes + HEAD_BYTES + 4)
    spool = Spool(tmp_path)
    for _ in range(3):
        assert [number for number, _ in read_all(spool)] == [0, 1, 4, 5]
        assert (spool.damaged, spool.waiting) == (2, 4)
        spool.rewind()
    assert spool.next(0) == (0, message(0))
    spool.acknowledge(0)
    spool.close()
    spool = Spool(tmp_path)
    assert [number for number, _ in read_all(spool)] == [1, 4, 5]
    assert spool.damaged == 2, "also after a restart"
    spool.close()


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=12),
    at=st.floats(0, 1),
    flipped=st.booleans(),
)
def test_torn_or_flipped_at_any_byte(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], at: float, flipped: bool
):
    """E11: every entry that is whole is delivered, in order, and none is invented."""
    directory = tmp_path_factory.mktemp("spool")
    sent = [message(number, size_bytes=size) for number, size in enumerate(sizes)]
    spool = Spool(directory)
    ends = []
    (path,) = directory.glob("*.segment")
    for entry in sent:
        spool.append(entry)
        ends.append(path.stat().st_size)
    spool.close()
    position = int(at * (ends[-1] - 1))
    if flipped:
        flip(path, position)
    else:
        os.truncate(path, position)
    starts = [START_BYTES, *ends[:-1]]
    whole = [
        entry
        for entry, start, end in zip(sent, starts, ends, strict=True)
        if (end <= position or (flipped and not start <= position < end))
    ]
    spool = Spool(directory)
    entries = read_all(spool)
    assert [entry for _, entry in entries] == whole
    assert [sent.index(entry) for _, entry in entries] == [number for number, _ in entries]
    if flipped and whole and whole[-1] == sent[-1]:
        assert spool.damaged == len(sent) - len(whole), "what is missing is counted"
    new = message(99)
    spool.append(new)
    assert read_all(spool)[-1][1] == new, "and the spool goes on"
    spool.close()


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


APPEND = """
import sys
from pathlib import Path
from headrace.producers.spool.spool import Spool
from headrace.producers.spool.segments import SpoolEntry

def message(number, size_bytes):
    headers = [("ce_id", b"%d" % number), ("t", b"")]
    return SpoolEntry("edge.cids.v1", b"cam-1", headers, bytes([number % 256]) * size_bytes)

spool = Spool(Path(sys.argv[1]), bytes_max=int(sys.argv[2]))
for number in range(100_000):
    spool.append(message(number, size_bytes=500))
    print(number, flush=True)
"""


def appending(directory: Path, bytes_max: int = 10**9, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", APPEND, str(directory), str(bytes_max)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )


@pytest.mark.server
def test_what_was_accepted_survives_sigkill(tmp_path: Path):
    process = appending(tmp_path)
    assert process.stdout is not None
    for _ in range(50):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    accepted = 50 + len(process.stdout.read().splitlines())
    process.wait()
    process.stdout.close()
    spool = Spool(tmp_path)
    entries = [entry for _, entry in read_all(spool)]
    assert entries == [message(number, size_bytes=500) for number in range(len(entries))]
    assert len(entries) in {accepted, accepted + 1}, "one more may be durable without having been said to be"
    spool.close()


@pytest.mark.server
@pytest.mark.parametrize("point", ["spool_before_fsync:20", "spool_after_fsync:20", "spool_before_delete:2"])
def test_a_crash_loses_nothing_that_was_accepted(tmp_path: Path, point: str):
    process = appending(tmp_path, 20_000, **{VARIABLE: point})
    out, _ = process.communicate(timeout=60)
    assert process.returncode == Exit.CRASHED
    accepted = len(out.splitlines())
    spool = Spool(tmp_path, bytes_max=20_000)
    entries = [entry for _, entry in read_all(spool)]
    dropped = spool.dropped_of("cam-1")
    assert accepted <= dropped + len(entries) <= accepted + 1
    assert entries == [message(number, size_bytes=500) for number in range(dropped, dropped + len(entries))]
    assert spool.damaged == 0
    spool.close()


def test_a_full_quarantine_drops_its_oldest_and_counts_it(tmp_path: Path):
    spool = Spool(tmp_path, bytes_max=80_000)
    for number in range(6):
        spool.append(message(number, size_bytes=3000))
    for number, entry in read_all(spool):
        spool.quarantine(number, entry)
        spool.quarantine(number, entry)  # as after a crash between the two steps
    assert spool.quarantined == 3
    assert spool.dropped_of("cam-1") == 3
    spool_id = spool.spool_id
    spool.close()
    spool = Spool(tmp_path, bytes_max=80_000)
    assert (spool.quarantined, spool.dropped_of("cam-1"), spool.spool_id) == (3, 3, spool_id)
    assert read_all(spool) == []
    assert spool.release() == 3
    assert [entry for _, entry in read_all(spool)] == [message(number, size_bytes=3000) for number in (3, 4, 5)]
    spool.close()
