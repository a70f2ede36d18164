import os
from itertools import islice
from pathlib import Path
from random import Random
from shutil import copytree, ignore_patterns

import pytest

from headrace.producers.outgoing import Dispatch
from headrace.producers.spool.segments import SpoolEntry, segment_files
from headrace.producers.spool.spool import Spool
from headrace.schemas.codec import decode
from headrace.schemas.topics import TOPICS
from tests.faults.plan import Mix, planned
from tests.faults.tearing import Torn, fsyncs, lose_power, tear

EVENTS = 30
DURABLE = 20
MIX = Mix(duplicates=0, poison=0, wrong_digests=0, bytes_max=2000)


def messages(first: int, count: int) -> list[SpoolEntry]:
    dispatch, read_entries = Dispatch(None), []
    for message in islice(planned(1, first=first, mix=MIX), count):
        assert message.event is not None
        going = dispatch.outgoing(message.event, None, None)
        read_entries.append(SpoolEntry(going.topic, going.key, going.headers, going.value))
    return read_entries


def fill(directory: Path, first: int, count: int) -> None:
    spool = Spool(directory)
    for message in messages(first, count):
        spool.append(message)
    spool.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spool whose process ended; each test damages a copy of it."""
    directory = tmp_path_factory.mktemp("spool")
    fill(directory, 0, EVENTS)
    return directory


def read_all(directory: Path) -> tuple[list[int], int]:
    """Return the sequences of everything that comes out, and how many the spool says are damaged."""
    spool, read_entries = Spool(directory), []
    while (read := spool.next(0)) is not None:
        event = decode(read[1].value, TOPICS[read[1].topic].event)
        read_entries.append(event.sequence)
    damaged = spool.damaged
    spool.close()
    return read_entries, damaged


@pytest.mark.parametrize("seed", range(40))
def test_what_was_durable_is_left_and_what_is_damaged_is_counted(filled: Path, tmp_path: Path, seed: int):
    spool = Path(copytree(filled, tmp_path / "spool"))
    torn = tear(spool, range(DURABLE), Random(seed))
    assert torn is not None
    fill(spool, 100, 3)
    read_entries, damaged = read_all(spool)
    assert read_entries[:DURABLE] == list(range(DURABLE))
    assert read_entries[-3:] == [100, 101, 102]
    assert read_entries == sorted(set(read_entries))
    assert damaged == torn.damaged


def test_each_way_of_tearing_comes_up_and_some_lose_what_stands_before_others(filled: Path, tmp_path: Path):
    results = [tear(Path(copytree(filled, tmp_path / str(seed))), range(DURABLE), Random(seed)) for seed in range(80)]
    assert {torn.how for torn in results if torn} == {"cut", "flipped", "garbage", "half an entry"}
    assert {torn.damaged for torn in results if torn} == {0, 1}


@pytest.mark.parametrize(("build", "left"), [("real", EVENTS), ("without fsync", 0)])
def test_a_loss_of_power_costs_nothing_that_was_durable_unless_nothing_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str, left: int
) -> None:
    """The build without fsync says that events are durable which are only in memory."""
    synced: dict[int, int] = {}
    with fsyncs(synced.__setitem__), monkeypatch.context() as patched:
        if build == "without fsync":
            patched.setattr(os, "fsync", lambda _descriptor: None)
        spool = Spool(tmp_path / "spool")
        for message in messages(0, EVENTS):
            spool.append(message)
        # Each append has returned: what is lost from here on was said to be durable.
        lost_bytes = lose_power(tmp_path / "spool", synced)
    assert (lost_bytes == 0) is (build == "real")
    copy = Path(copytree(tmp_path / "spool", tmp_path / "after", ignore=ignore_patterns("*lock*")))
    spool.close()
    read_entries, _ = read_all(copy)
    assert read_entries == list(range(left))


def test_where_all_was_durable_nothing_of_it_is_touched(filled: Path, tmp_path: Path):
    spool = Path(copytree(filled, tmp_path / "spool"))
    (before,) = [path.read_bytes() for path in segment_files(spool)]
    torn = tear(spool, range(EVENTS), Random(2))
    (after,) = [path.read_bytes() for path in segment_files(spool)]
    assert torn == Torn("garbage", 0)
    assert after.startswith(before)


def test_nothing_is_done_where_nothing_is(tmp_path: Path):
    assert tear(tmp_path, range(1), Random(1)) is None
