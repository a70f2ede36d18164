"""The known-bad builds are found out: each in a scenario that betrays it, in which the real build is without fault."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest

from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.digest import blob_key
from headrace.schemas.events import Kind
from headrace.schemas.limits import MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.orphan_gc import OrphanGc
from headrace.store.errors import CatalogUnavailableError
from headrace.streams.worker.profile import LARGE, SMALL, Group
from tests.faults.bad_builds.registry import BUILDS, become
from tests.faults.bad_builds.scene import COMES_S_MAX, BadBuildScene, cid_of, frame_of, metric, scene
from tests.waiting import until

pytestmark = pytest.mark.timeout(240)

ROOM_BYTES = 16 * MIB
OVERTAKING_S = 2.0  # long enough for the small message to be let in, if somebody would
FETCHED_S = 2.0  # long enough for a message to be fetched before the next one is published
COMMITTED_S = 4.0  # a few of Faust's commits, which come every second
TAKEN = "headrace_worker_batch_messages_sum"


def later_message_first(it: BadBuildScene, build: str | None) -> None:
    """A large message has no room while the small one behind it has; before the large one is written, a kill."""
    it.relay()
    source = it.source()
    plugs = [frame_of(source, number, 5 * MIB) for number in range(3)]
    large, small = frame_of(source, 3, 3 * MIB), frame_of(source, 4, 1000)
    with it.held(large):
        worker = it.worker(LARGE, build, in_flight_bytes_max=ROOM_BYTES).wait_ready()
        with it.held(*plugs):
            for plug in plugs:
                it.publish(plug)
            until(lambda: metric(worker, TAKEN) == len(plugs), COMES_S_MAX, "the room to be nearly full")
            it.publish(large)
            time.sleep(1)  # until whoever took it waits for room; nothing tells of that
            place = it.publish(small)
            if build is None:
                time.sleep(OVERTAKING_S)
                assert metric(worker, TAKEN) == len(plugs), "nobody is let in before the large one"
            else:
                until(lambda: metric(worker, TAKEN) > len(plugs), COMES_S_MAX, "the small one to be let in first")
        assert it.passed(LARGE, place, COMMITTED_S if build is None else COMES_S_MAX) == (build is not None)
        worker.kill()
    it.worker(LARGE)


def wrong_message(it: BadBuildScene, build: str | None) -> None:
    """A message that is none, alone in its fetch, between two good ones."""
    it.relay()
    worker = it.worker(SMALL, build).wait_ready()
    source = it.source()
    assert it.passed(SMALL, it.publish(cid_of(source, 0)))
    it.publish_poison(Kind.CID, b"not framed: " + source.encode())
    time.sleep(FETCHED_S)
    last = it.publish(cid_of(source, 1))
    assert it.passed(SMALL, last)
    worker.stop()
    it.worker(SMALL)


def good_messages(it: BadBuildScene, build: str | None) -> None:
    """A few scans, and nothing else."""
    it.relay()
    worker = it.worker(SMALL, build).wait_ready()
    source = it.source()
    last = [it.publish(cid_of(source, number)) for number in range(3)][-1]
    assert it.passed(SMALL, last)
    worker.stop()
    it.worker(SMALL)


def crash_at_the_transaction(it: BadBuildScene, build: str | None) -> None:
    """The worker ends where its first transaction began, and one as it should be takes over."""
    it.relay()
    worker = it.worker(SMALL, build, crash_at="tx_began").wait_ready()
    it.publish(cid_of(it.source(), 0))
    assert worker.process.wait(COMES_S_MAX) == Exit.CRASHED
    it.worker(SMALL)


def announced_and_not_marked(it: BadBuildScene, build: str | None) -> None:
    """A relay ends between Kafka's commit and its mark, and another one goes on."""
    it.worker(SMALL)
    relay = it.relay(crash_at="relay_before_mark")
    it.publish(cid_of(it.source(), 0))
    assert relay.process.wait(COMES_S_MAX) == Exit.CRASHED
    it.relay(build)


def killed_before_the_commit(it: BadBuildScene, build: str | None) -> None:
    """A relay ends before it commits its transaction, and one as it should be goes on."""
    it.worker(SMALL)
    relay = it.relay(build, crash_at="relay_before_commit")
    it.publish(cid_of(it.source(), 0))
    assert relay.process.wait(COMES_S_MAX) == Exit.CRASHED
    it.relay()


def first_batch_is_slow(it: BadBuildScene, build: str | None) -> None:
    """A batch waits in PostgreSQL while the one after it, of the same source, could be written."""
    it.relay()
    worker = it.worker(LARGE, build, batch_frames_max=1).wait_ready()
    source = it.source()
    first, second = frame_of(source, 0, 1000), frame_of(source, 1, 1000)
    before = it.count("records")
    with it.held(first):
        it.publish(first)
        until(lambda: metric(worker, TAKEN) == 1, COMES_S_MAX, "the first to be taken")
        it.publish(second)
        until(lambda: metric(worker, TAKEN) == 2, COMES_S_MAX, "the second to be taken")
        if build is None:
            time.sleep(OVERTAKING_S)
            assert it.count("records") == before
        else:
            until(lambda: it.count("records") == before + 1, COMES_S_MAX, "the second to be written first")


def killed_before_its_commit(it: BadBuildScene, build: str | None) -> None:
    """A worker is killed while PostgreSQL does not take its transaction."""
    it.relay()
    worker = it.worker(LARGE, build).wait_ready()
    frame = frame_of(it.source(), 0, 1000)
    with it.held(frame):
        place = it.publish(frame)
        assert it.passed(LARGE, place, COMMITTED_S if build is None else COMES_S_MAX) == (build is not None)
        worker.kill()
    if build is None:  # with the other one the group is ahead of the catalog, and no worker starts any more
        it.worker(LARGE)


def one_batch(it: BadBuildScene, build: str | None) -> None:
    """Scans that are waiting when the worker starts, so that it takes several at once."""
    it.relay()
    source = it.source()
    for number in range(8):
        it.publish(cid_of(source, number))
    it.worker(SMALL, build)


def collected_while_it_is_written(it: BadBuildScene, build: str | None) -> None:
    """An orphan is collected after a worker found it in the store, and before the worker's commit."""
    it.relay()
    it.worker(LARGE).wait_ready()
    frame = frame_of(it.source(), 0, 1000)
    assert frame.body is not None
    blobs = Blobs.from_settings(it.settings)
    asyncio.run(blobs.put(blob_key(frame.sha256), frame.body))
    with it.held(frame), patch.object(OrphanGc, "mark", OrphanGc.mark):
        it.publish(frame)
        until(it.waiting_for_lock, COMES_S_MAX, "the worker to have come to its transaction")
        if build is not None:
            become(build)
        collected = asyncio.run(_collect(it.settings, blobs, blob_key(frame.sha256)))
        assert collected == (build is not None)


async def _collect(settings: Settings, blobs: Blobs, key: str) -> bool:
    async with OrphanGc.open(settings.postgres_dsn.get_secret_value()) as collection:
        try:
            free = await collection.mark([key])
        except CatalogUnavailableError:  # the worker's transaction did not end in time
            return False
        for orphan in free:
            await blobs.delete(orphan)
        await collection.release()
    return bool(free)


SCENARIOS: dict[str, tuple[Callable[[BadBuildScene, str | None], None], Group, set[str]]] = {
    "concurrency": (later_message_first, LARGE, {"I1", "I4", "I9", "I14"}),
    "raising": (wrong_message, SMALL, {"I1", "I14"}),
    "json_values": (good_messages, SMALL, {"I1", "I4", "I9", "I14"}),
    "publish_before_commit": (crash_at_the_transaction, SMALL, {"I3", "I4"}),
    "relay_without_catch_up": (announced_and_not_marked, SMALL, {"I3"}),
    "relay_marks_first": (killed_before_the_commit, SMALL, {"I4"}),
    "batches_overtake": (first_batch_is_slow, LARGE, {"I11"}),
    "ack_before_commit": (killed_before_its_commit, LARGE, {"I1", "I4", "I9", "I14"}),
    "shifted_column": (one_batch, SMALL, {"I5"}),
    "wrong_pack_offset": (one_batch, SMALL, {"I5"}),
    "collection_without_marks": (collected_while_it_is_written, LARGE, {"I6"}),
}


def test_every_build_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(BUILDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_known_bad_build_is_found_out(name: str, stack_settings: Settings, tmp_path: Path) -> None:
    act, group, broken = SCENARIOS[name]
    with scene(stack_settings, tmp_path) as it:
        act(it, name)
        verdict = it.verdict((group,))
    print(name, verdict.counts, verdict.examples)
    assert not verdict.ok
    assert {invariant for invariant, count in verdict.counts.items() if count} == broken, verdict.examples


@pytest.mark.slow
def test_the_real_build_is_without_fault_in_all_of_them(stack_settings: Settings, tmp_path: Path) -> None:
    with scene(stack_settings, tmp_path) as it:
        for act, group in dict.fromkeys((act, group) for act, group, _ in SCENARIOS.values()):
            act(it, None)
            it.rest((group,))
            it.stop_workers()
        verdict = it.verdict((SMALL, LARGE))
    assert verdict.broken == set(), verdict.examples
