import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random

from batch.fsck import Options, Problem, Report, open_and_check
from runtime.settings import Settings
from schemas.digest import blob_key, sha256_hex
from schemas.events import Frame
from store.blobs import Blobs
from tests.faults.own import own_file, wait_recorded
from tests.faults.plan import Mix, Planned, planned
from tests.faults.registry import experiment
from tests.faults.workload import Publishing
from tests.faults.world import World

_AT_ONCE_SHORT, _AT_ONCE_LONG = 10, 100
_LONG_FROM = 1000
_MIX = Mix(duplicates=0, poison=0, wrong_digests=0, bytes_max=4000, names="again-")
_REPAIR = Options(repair=True, force=True, sample=0)


@experiment("E16", "orphans collected while the same bytes are uploaded again", ci=100, long=10_000)
def collect_against_uploads(world: World, count: int, random: Random) -> Counter[str]:
    """Leave `count` bodies in the store without a row, and collect them just as they arrive from a camera."""
    # Without a grace period what the workload has on its way is fair game for the collection too.
    settings = world.settings.model_copy(update={"collect_grace_hours": 0.0})
    path, first = own_file(world, "collected")
    frames = _frames(planned(random.randrange(1_000_000), first=first, mix=_MIX))
    publishing = Publishing(world.settings, path)
    outcome: Counter[str] = Counter()
    lasted_s = 1.0
    try:
        for done in range(0, count, at_once := _AT_ONCE_LONG if count >= _LONG_FROM else _AT_ONCE_SHORT):
            some = list(islice(frames, min(at_once, count - done)))
            began = time.monotonic()
            outcome += asyncio.run(_collide(settings, publishing, some, _delays(random, len(some), lasted_s)))
            lasted_s = time.monotonic() - began
    finally:
        acks = publishing.close()
    assert len(acks.acks) == count, f"{count - len(acks.acks)} of {count} frames were not acknowledged"
    wait_recorded(world, acks.attempts.values())
    asyncio.run(_check_bodies(world.settings, [attempt.digest for attempt in acks.attempts.values()]))
    return outcome


def _frames(messages: Iterator[Planned]) -> Iterator[tuple[Planned, Frame]]:
    return ((message, message.event) for message in messages if isinstance(message.event, Frame))


def _delays(random: Random, number: int, within_s: float) -> list[float]:
    return sorted(random.uniform(0, within_s) for _ in range(number))


async def _collide(
    settings: Settings, publishing: Publishing, some: Sequence[tuple[Planned, Frame]], delays: Sequence[float]
) -> Counter[str]:
    """Put the bodies as a worker would that died before its commit; collect, and publish them, at the same time."""
    blobs = Blobs.from_settings(settings)
    keys = {blob_key(frame.sha256) for _, frame in some}
    for _, frame in some:
        assert frame.body is not None
        await blobs.put(blob_key(frame.sha256), frame.body, media_type=frame.media_type)
    collecting = asyncio.create_task(open_and_check(settings, blobs, _REPAIR))
    began = time.monotonic()
    for (message, _), delay_s in zip(some, delays, strict=True):
        await asyncio.sleep(max(0.0, began + delay_s - time.monotonic()))
        await asyncio.to_thread(publishing.publish, message)
    return _outcome(await collecting, keys)


def _outcome(report: Report, keys: set[str]) -> Counter[str]:
    """Count what became of each orphan: removed, or found to be named by a row by then."""
    said = {found.name: how for found, how in report.healed if found.problem is Problem.OBJECT_WITHOUT_ROW}
    left = [f"{found.name}: {why}" for found, why in report.unhealed if found.name in keys]
    assert not left, f"{len(left)} orphans could not be collected, among them {left[0]}"
    return Counter(f"orphan {said.get(key, 'named by a row before')}" for key in keys)


async def _check_bodies(settings: Settings, digests: Sequence[str]) -> None:
    blobs = Blobs.from_settings(settings)
    for digest in digests:
        assert sha256_hex(await blobs.get(blob_key(digest))) == digest, f"{blob_key(digest)} holds other bytes"
