"""How workers end: killed in the middle, stopped by the quota, asked to stop. Nothing is lost and nothing is doubled.

Kafka waits for a killed member until its session is over before it gives its partitions to another. So everything that
waits for that happens at once, in one fixture, and the tests look at the outcome.
"""

from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest

from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from headrace.schemas.codec import encode
from headrace.schemas.events import Kind
from tests.consumer_groups import skip_backlog
from tests.processes import ServiceProcess
from tests.streams.streams_samples import cid, frame, png
from tests.streams.streams_world import ARRIVES_S_MAX, GROUPS, Sent, World
from tests.waiting import until

pytestmark = pytest.mark.stack

SCANS = 3000
QUOTA = 5
STOP_S_MAX = 20.0
SESSION_S = 6.0  # the least that a broker allows: so long a worker that was killed is missed


@dataclass(frozen=True)
class Aftermath:
    """What was seen of the workers that ended, and what was published."""

    world: World
    scans: list[Sent]
    stored_when_killed: int
    good: list[Sent]
    junk: list[Sent]
    quota_exit: int
    quota_log: str
    committed_at_quota: int
    letters_at_quota: int
    quota_exit_again: int
    letters_again: int
    small: ServiceProcess


@pytest.fixture(scope="module")
def aftermath(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aftermath]:
    logs = tmp_path_factory.mktemp("workers")
    with closing(World(module_settings)) as world, ExitStack() as running:
        skip_backlog(module_settings, {GROUPS[Kind.CID], GROUPS[Kind.FRAME]})

        def worker(name: str, kinds: str, **changes: object) -> ServiceProcess:
            started = ServiceProcess(
                module_settings,
                "worker",
                "--kinds",
                kinds,
                log=logs / f"{name}.log",
                kafka_session_s=SESSION_S,
                **changes,
            )
            running.callback(started.stop)
            return started

        small = worker("small", "cids,ldos", batch_messages_max=20)
        quota = worker("quota", "frames,clips", dead_letter_quota=QUOTA, dead_letter_quota_s=600, batch_frames_max=3)
        scans, stored = killed_in_the_middle(world, small.wait_ready())
        good, junk = stopped_by_the_quota(world, quota.wait_ready())
        exit_code, log, committed, dead = (
            quota.process.returncode,
            quota.log.read_text(),
            world.committed(junk[0]),
            letters(world, junk),
        )
        quota.process = quota._start()
        until(lambda: quota.process.poll() is not None, ARRIVES_S_MAX, "the quota to end the worker again")
        seen = Aftermath(
            world=world,
            scans=scans,
            stored_when_killed=stored,
            good=good,
            junk=junk,
            quota_exit=exit_code,
            quota_log=log,
            committed_at_quota=committed,
            letters_at_quota=dead,
            quota_exit_again=quota.process.returncode,
            letters_again=letters(world, junk),
            small=small,
        )
        large = worker("large", "frames,clips")
        small.wait_ready()
        yield seen
        for process in (small, large):
            process.process.terminate()


def killed_in_the_middle(world: World, worker: ServiceProcess) -> tuple[list[Sent], int]:
    """Publish scans, kill the worker while it stores them, and start it again."""
    sent = []
    for lot in range(4):
        values = [
            encode(cid(f"C-{number}", source_id=world.source(f"lot-{lot}"), sequence=number))
            for number in range(SCANS // 4)
        ]
        sent += world.send_all(Kind.CID, values, key=f"lot-{lot}".encode(), partition=lot)
    until(lambda: sightings(world) > 100, ARRIVES_S_MAX, "the worker to be in the middle")
    worker.kill()
    stored = sightings(world)
    worker.process = worker._start()
    return sent, stored


def stopped_by_the_quota(world: World, worker: ServiceProcess) -> tuple[list[Sent], list[Sent]]:
    """Publish a few good frames, then more junk than the quota allows, and wait until the worker has ended."""
    good = world.send_all(
        Kind.FRAME, [encode(frame(png(shade=shade), source_id=world.source("good"))) for shade in range(3)], partition=0
    )
    for one in good:
        world.stored(one)
    junk = [
        sent
        for number in range(40)
        for sent in world.send_all(Kind.FRAME, [b"junk"], key=b"source %d" % number, partition=0)
    ]
    until(lambda: worker.process.poll() is not None, ARRIVES_S_MAX, "the quota to end the worker")
    return good, junk


def sightings(world: World) -> int:
    """How many of the scans are there; what another test publishes does not count."""
    (row,) = world.rows("select count(*) from sightings where source_id like %s", world.source("lot-%"))
    return int(row["count"])


def letters(world: World, junk: list[Sent]) -> int:
    return sum(len(world.dead_letters(one)) for one in junk)


def test_what_a_killed_worker_had_not_finished_the_next_one_does(aftermath: Aftermath) -> None:
    world = aftermath.world
    assert aftermath.stored_when_killed < SCANS, "it was killed too late to prove anything"
    until(lambda: sightings(world) >= SCANS, ARRIVES_S_MAX, "everything to be there")
    rows = world.rows(
        'select partition, "offset", source_id, sequence from sightings where source_id like %s order by 1, 2',
        world.source("lot-%"),
    )
    assert [(row["partition"], row["offset"]) for row in rows] == sorted(
        (one.partition, one.offset) for one in aftermath.scans
    )
    for lot in range(4):
        seen = [row["sequence"] for row in rows if row["source_id"] == world.source(f"lot-{lot}")]
        assert seen == list(range(SCANS // 4))


def test_after_a_kill_each_record_is_announced_once_and_its_bytes_are_there(aftermath: Aftermath) -> None:
    world = aftermath.world
    until(lambda: sightings(world) >= SCANS, ARRIVES_S_MAX, "everything to be there")
    (counts,) = world.rows(
        "select count(*) as records, count(b.sha256) as blobs,"
        " (select count(*) from outbox o join records r using (record_id) where r.source_id like %s) as announcements"
        " from records r left join blobs b on b.sha256 = r.digest where r.source_id like %s",
        *[world.source("lot-%")] * 2,
    )
    assert counts == {"records": SCANS, "blobs": SCANS, "announcements": SCANS}
    packs = world.rows("select distinct store_key from blobs where store_offset is not null")
    there = {stat.key for stat in world.listed("packs/")}
    assert {row["store_key"] for row in packs} <= there


def test_a_workers_announcements_follow_the_order_of_each_source(aftermath: Aftermath) -> None:
    world = aftermath.world
    until(lambda: sightings(world) >= SCANS, ARRIVES_S_MAX, "everything to be there")
    rows = world.rows(
        "select r.source_id, r.sequence from outbox o join records r using (record_id)"
        " where r.kind = 'cid' order by o.id"
    )
    for lot in range(4):
        seen = [row["sequence"] for row in rows if row["source_id"] == world.source(f"lot-{lot}")]
        assert seen == sorted(seen)


def test_too_many_dead_letters_end_the_worker_and_nothing_beyond_the_quota_is_acknowledged(
    aftermath: Aftermath,
) -> None:
    assert aftermath.quota_exit == Exit.QUOTA
    assert aftermath.letters_at_quota <= QUOTA
    assert aftermath.committed_at_quota <= aftermath.junk[0].offset + aftermath.letters_at_quota
    assert "a bad deploy is more likely than bad sources" in aftermath.quota_log
    assert "Traceback" not in aftermath.quota_log


def test_a_restart_does_not_begin_the_quota_anew(aftermath: Aftermath) -> None:
    assert aftermath.quota_exit_again == Exit.QUOTA
    assert aftermath.letters_again == aftermath.letters_at_quota


def test_a_worker_with_another_quota_takes_up_what_the_quota_left(aftermath: Aftermath) -> None:
    assert {aftermath.world.dead(one)["code"] for one in aftermath.junk} == {"not_framed"}
    assert [aftermath.world.stored(one)["seen_by"] for one in aftermath.good] == [aftermath.world.source("good")] * 3


def test_a_worker_that_is_asked_to_stop_finishes_what_it_has_and_has_done_so(aftermath: Aftermath) -> None:
    world = aftermath.world
    until(lambda: sightings(world) >= SCANS, ARRIVES_S_MAX, "the worker to have its partitions")
    values = [encode(cid(f"S-{number}", source_id=world.source("stop"))) for number in range(1000)]
    sent = world.send_all(Kind.CID, values, partition=0)
    until(lambda: world.sighting(sent[0]), ARRIVES_S_MAX, "the first of them")
    assert aftermath.small.stop(STOP_S_MAX) == Exit.OK
    (stored,) = world.rows(
        'select max("offset") + 1 as next, count(*) from sightings where source_id = %s', world.source("stop")
    )
    # Everything that it stored it also acknowledged, so nothing of it is delivered again; and there are no holes.
    assert world.committed(sent[0]) == stored["next"] == sent[0].offset + stored["count"]
    assert '"stopped"' in aftermath.small.log.read_text()
    assert '"stop_forced"' not in aftermath.small.log.read_text()
    aftermath.small.restart()
    assert world.stored(sent[-1])["seen_by"] == world.source("stop")
