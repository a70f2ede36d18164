import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from random import Random

from headrace.batch.fsck.check import FsckOptions, open_and_check
from headrace.batch.fsck.findings import FsckProblem, FsckReport
from headrace.runtime.settings import Settings
from headrace.schemas.digest import blob_key, sha256_hex
from headrace.schemas.events import Frame
from headrace.store.blobs.blob_store import Blobs
from tests.faults.own import own_file, wait_recorded
from tests.faults.plan import Mix, Planned, planned
from tests.faults.registry import experiment
from tests.faults.workload import Publishing
from tests.faults.world import FaultsWorld

_AT_ONCE_SHORT, _AT_ONCE_LONG = 10, 100
_LONG_FROM = 1000
_MIX = Mix(duplicates=0, poison=0, wrong_digests=0, bytes_max=4000, names="again-")
_REPAIR = FsckOptions(repair=True, force=True, sample=0)
_TRIED_OF = 6
"""At most so many orphans are put for each that is to be collected: some get their row too soon."""
_BOTH_FROM = 50
_AHEAD_S = 0.4
"""How long before a collection the first frames leave: about what they need to have their row."""
_REMOVED, _IN_TIME = "removed", "a row references it by now"
_EXPECTED = {FsckProblem.OBJECT_WITHOUT_ROW, FsckProblem.STAGED_ABANDONED, FsckProblem.ANNOUNCEMENT_LATE}
"""What a busy service may show. Anything else is damage, which the repair would hide from the checker."""


@experiment("E16", "orphans collected while the same bytes are uploaded again", ci=50, long=10_000)
def collect_against_uploads(world: FaultsWorld, count: int, random: Random) -> Counter[str]:
    """Leave bodies in the store without a row, and collect them just as they arrive from a camera.

    It goes on until `count` of them were up for collection; one whose row the check saw already is no fault.
    """
    # Without a grace period what the workload has on its way is fair game for the collection too.
    settings = world.settings.model_copy(update={"collect_grace_hours": 0.0})
    path, first = own_file(world, "collected")
    frames = _frames(planned(random.randrange(1_000_000), first=first, mix=_MIX))
    publishing = Publishing(world.settings, path)
    outcome = Counter[str]()
    lasted_s, put = 1.0, 0
    try:
        while (missing := count - outcome.total()) > 0:
            at_once = min(_AT_ONCE_LONG if count >= _LONG_FROM else _AT_ONCE_SHORT, missing)
            assert put + at_once <= _TRIED_OF * count, f"of {put} orphans only {outcome.total()} were up for collection"
            put += at_once
            some = list(islice(frames, at_once))
            report, lasted_s = asyncio.run(
                _collide(settings, publishing, some, _delays(random, at_once, _AHEAD_S + lasted_s))
            )
            outcome += outcome_of(report, {blob_key(frame.sha256) for _, frame in some})
    finally:
        acks = publishing.close()
    assert len(acks.acks) == put, f"{put - len(acks.acks)} of {put} frames were not acknowledged"
    wait_recorded(world, acks.attempts.values())
    asyncio.run(_check_bodies(world.settings, [attempt.digest for attempt in acks.attempts.values()]))
    if count >= _BOTH_FROM:
        assert {_REMOVED, _IN_TIME} <= {how for how, number in outcome.items() if number}, f"only {dict(outcome)}"
    return Counter({f"orphan {how}": number for how, number in outcome.items()})


def _frames(messages: Iterator[Planned]) -> Iterator[tuple[Planned, Frame]]:
    return ((message, message.event) for message in messages if isinstance(message.event, Frame))


def _delays(random: Random, number: int, within_s: float) -> list[float]:
    return sorted(random.uniform(0, within_s) for _ in range(number))


async def _collide(
    settings: Settings, publishing: Publishing, some: Sequence[tuple[Planned, Frame]], delays: Sequence[float]
) -> tuple[FsckReport, float]:
    """Put the bodies as a worker would that died before its commit; collect, and publish them, at the same time.

    Returns what the collection said, and how long it took, which is how long the next arrivals are to be spread over.
    """
    blobs = Blobs.from_settings(settings)
    for _, frame in some:
        assert frame.body is not None
        await blobs.put(blob_key(frame.sha256), frame.body, media_type=frame.media_type)
    began = time.monotonic()
    collecting = asyncio.create_task(_collect(settings, blobs))
    for (message, _), delay_s in zip(some, delays, strict=True):
        await asyncio.sleep(max(0.0, began + delay_s - time.monotonic()))
        await asyncio.to_thread(publishing.publish, message)
    return await collecting


async def _collect(settings: Settings, blobs: Blobs) -> tuple[FsckReport, float]:
    await asyncio.sleep(_AHEAD_S)
    began = time.monotonic()
    report = await open_and_check(settings, blobs, _REPAIR)
    return report, time.monotonic() - began


def outcome_of(report: FsckReport, keys: Collection[str]) -> Counter[str]:
    """Count what became of those orphans that were up for collection: removed, or named by a row just in time.

    Raises:
        AssertionError: an orphan could not be collected, or the check found something else wrong.
    """
    damage = [f"{finding.problem} {finding.name}" for finding in report.findings if finding.problem not in _EXPECTED]
    assert not damage, f"fsck found {len(damage)} things wrong, among them {damage[0]}"
    left = [f"{finding.name}: {why}" for finding, why in report.unhealed if finding.name in keys]
    assert not left, f"{len(left)} orphans could not be collected, among them {left[0]}"
    healed = [(finding, how) for finding, how in report.healed if finding.problem is FsckProblem.OBJECT_WITHOUT_ROW]
    return Counter(how for finding, how in healed if finding.name in keys)


async def _check_bodies(settings: Settings, digests: Sequence[str]) -> None:
    blobs = Blobs.from_settings(settings)
    for digest in digests:
        assert sha256_hex(await blobs.get(blob_key(digest))) == digest, f"{blob_key(digest)} holds other bytes"
