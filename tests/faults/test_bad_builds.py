"""The known-bad builds are found out: each in a scenario that betrays it, in which the real build is without fault."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.schemas.limits import MIB
from headrace.streams.worker.profile import LARGE, SMALL, Group
from tests.faults.bad_builds.registry import BUILDS
from tests.faults.bad_builds.scene import COMES_S_MAX, BadBuildScene, cid_of, frame_of, metric, scene
from tests.waiting import until

pytestmark = pytest.mark.timeout(240)

ROOM_BYTES = 16 * MIB
OVERTAKING_S = 2.0  # long enough for the small message to be let in, if somebody would
COMMITTED_S = 4.0  # a few of Faust's commits, which come every second
TAKEN = "headrace_worker_batch_messages_sum"


def later_message_first(it: BadBuildScene, build: str | None) -> None:
    """A large message has no room while the small one behind it has; before the large one is written, a kill."""
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
    """A message that is none, alone in its batch, between two good ones."""
    worker = it.worker(SMALL, build, batch_messages_max=1).wait_ready()
    source = it.source()
    it.publish(cid_of(source, 0))
    it.publish_poison(Kind.CID, b"not framed: " + source.encode())
    last = it.publish(cid_of(source, 1))
    assert it.passed(SMALL, last)
    worker.stop()
    it.worker(SMALL)


def good_messages(it: BadBuildScene, build: str | None) -> None:
    """A few scans, and nothing else."""
    worker = it.worker(SMALL, build).wait_ready()
    source = it.source()
    last = [it.publish(cid_of(source, number)) for number in range(3)][-1]
    assert it.passed(SMALL, last)
    worker.stop()
    it.worker(SMALL)


def crash_at_the_transaction(it: BadBuildScene, build: str | None) -> None:
    """The worker ends where its first transaction began, and one as it should be takes over."""
    worker = it.worker(SMALL, build, crash_at="tx_began").wait_ready()
    it.publish(cid_of(it.source(), 0))
    assert worker.process.wait(COMES_S_MAX) == Exit.CRASHED
    it.worker(SMALL)


SCENARIOS: dict[str, tuple[Callable[[BadBuildScene, str | None], None], Group, set[str]]] = {
    "concurrency": (later_message_first, LARGE, {"I1", "I4", "I9", "I14"}),
    "raising": (wrong_message, SMALL, {"I1", "I14"}),
    "json_values": (good_messages, SMALL, {"I1", "I4", "I9", "I14"}),
    "publish_before_commit": (crash_at_the_transaction, SMALL, {"I3"}),
}


def test_every_build_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(BUILDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENARIOS)
def test_a_known_bad_build_is_found_out(name: str, stack_settings: Settings, tmp_path: Path) -> None:
    act, group, broken = SCENARIOS[name]
    with scene(stack_settings, tmp_path) as it:
        it.relay()
        act(it, name)
        verdict = it.verdict((group,))
    print(name, verdict.counts, verdict.examples)
    assert not verdict.ok
    assert {invariant for invariant, count in verdict.counts.items() if count} == broken, verdict.examples


@pytest.mark.slow
def test_the_real_build_is_without_fault_in_all_of_them(stack_settings: Settings, tmp_path: Path) -> None:
    with scene(stack_settings, tmp_path) as it:
        it.relay()
        for act, group, _ in SCENARIOS.values():
            act(it, None)
            it.rest((group,))
            it.stop_workers()
        verdict = it.verdict((SMALL, LARGE))
    assert verdict.ok, verdict.examples
