"""Batches in flight: prepared side by side, committed one after another, acknowledged last and in order."""

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.runtime.errors import Exit
from headrace.schemas.catalog_rows import Outcomes
from headrace.schemas.digest import blob_key, sha256_hex
from headrace.schemas.events import Frame, Kind
from headrace.store.errors import CatalogRefusedError
from headrace.streams.worker.batch_pipeline import PipelineLimits
from tests.streams.streams_fakes import CATALOG_AWAY, STORE_AWAY, FakeFetch, Journal
from tests.streams.streams_rig import HASTY, Gate, Rig, settle, until_true
from tests.streams.streams_samples import cid, frame, png, raw_delivery


def committed(rig: Rig) -> list[int]:
    """The offsets in the order in which they were committed."""
    return [offset for offsets in rig.journal.of("commit") for offset in offsets]


def holds(shade: int) -> Any:
    """Tell the PUT of one picture from the others."""
    return lambda key: key == blob_key(sha256_hex(png(shade=shade)))


async def test_a_batch_that_is_prepared_first_still_waits_for_the_one_before_it() -> None:
    rig = Rig()
    gate = Gate(rig.journal, "put", only=holds(0))
    await rig.take(frame(png(shade=0)), frame(png(shade=1)))
    await rig.take(frame(png(shade=2)))
    await rig.take(frame(png(shade=3)))
    await until_true(lambda: len(rig.journal.of("put")) == 3)
    await settle()
    assert rig.journal.of("commit") == []
    assert rig.acked == []
    gate.open()
    await rig.drain()
    assert committed(rig) == [0, 1, 2, 3]
    assert rig.acked == [0, 1, 2, 3]


async def test_nothing_comes_between_the_acknowledgements_of_a_batch() -> None:
    rig = Rig(Kind.CID)
    await rig.take(*(cid(f"C-{number}") for number in range(50)))
    await rig.take(cid("later"))
    await rig.drain()
    names = [what for what, _ in rig.journal.entries]
    first = names.index("ack")
    assert names[first : first + 50] == ["ack"] * 50
    assert rig.acked == list(range(51))


async def test_what_comes_while_all_batches_are_busy_gathers_into_full_ones() -> None:
    rig = Rig(batches_max=2, messages_max=5)
    gate = Gate(rig.journal, "commit")
    await rig.take(frame(png(shade=0)))
    await rig.take(frame(png(shade=1)))
    for shade in range(2, 7):
        await rig.take(frame(png(shade=shade)))
    more = asyncio.create_task(rig.take(frame(png(shade=7))))
    await until_true(lambda: gate.held == 1 and len(rig.journal.of("put")) == 2)
    await settle()
    assert not more.done(), "more was taken in than the next batch may hold"
    assert len(rig.journal.of("put")) == 2, "more batches were on their way than may be"
    gate.open()
    await more
    await rig.drain()
    assert committed(rig) == rig.acked == list(range(8))


async def test_a_lone_message_does_not_wait_for_others() -> None:
    rig = Rig()
    await rig.take(frame())
    await until_true(lambda: rig.acked == [0])


async def test_more_messages_than_a_batch_may_hold_go_as_several() -> None:
    rig = Rig(Kind.CID, batches_max=2, messages_max=4)
    await rig.run(*(cid(f"C-{number}") for number in range(11)))
    assert len(rig.journal.of("put")) == 3, "one pack for each batch"
    assert committed(rig) == rig.acked == list(range(11))


async def test_draining_carries_out_what_had_only_gathered() -> None:
    rig = Rig(batches_max=1)
    gate = Gate(rig.journal, "commit")
    await rig.take(frame(png(shade=0)))
    await rig.take(frame(png(shade=1)))
    draining = asyncio.create_task(rig.drain())
    await settle()
    gate.open()
    await draining
    assert rig.acked == [0, 1]


async def test_no_more_bytes_are_in_flight_than_the_limit() -> None:
    picture = frame(png(padding_bytes=10_000))
    rig = Rig(bytes_max=25_000)
    gate = Gate(rig.journal, "commit")
    await rig.take(picture)
    await rig.take(picture)
    third = asyncio.create_task(rig.take(picture))
    await until_true(lambda: gate.held == 1)
    await settle()
    assert not third.done()
    gate.open()
    await third
    await rig.drain()
    assert rig.acked == [0, 1, 2]


async def test_a_batch_larger_than_the_limit_goes_alone() -> None:
    rig = Rig(bytes_max=1000)
    large = frame(png(padding_bytes=10_000))
    gate = Gate(rig.journal, "commit")
    await rig.take(large)
    small = asyncio.create_task(rig.take(frame()))
    await until_true(lambda: gate.held == 1)
    await settle()
    assert not small.done()
    gate.open()
    await small
    await rig.drain()
    assert rig.acked == [0, 1]


async def test_what_comes_at_once_is_let_in_as_far_as_there_is_room() -> None:
    rig = Rig(bytes_max=25_000)
    gate = Gate(rig.journal, "commit")
    take_task = asyncio.create_task(rig.take(*(frame(png(shade=shade, padding_bytes=10_000)) for shade in range(5))))
    await until_true(lambda: gate.held == 1)
    await settle()
    assert not take_task.done()
    assert len(rig.journal.of("put")) == 2, "more bytes were let in than the limit"
    gate.open()
    await take_task
    await rig.drain()
    assert [len(batch) for batch in rig.journal.of("commit")] == [2, 2, 1]
    assert rig.acked == [0, 1, 2, 3, 4]


async def test_a_message_larger_than_the_limit_goes_alone_among_what_comes_with_it() -> None:
    rig = Rig(bytes_max=5000)
    await rig.run(frame(), frame(png(shade=1)), frame(png(shade=2, padding_bytes=10_000)), frame(png(shade=3)))
    assert rig.journal.of("commit") == [[0, 1], [2], [3]]
    assert rig.acked == [0, 1, 2, 3]


async def test_while_draining_what_had_found_no_room_stays_out() -> None:
    rig = Rig(bytes_max=25_000)
    gate = Gate(rig.journal, "commit")
    take_task = asyncio.create_task(rig.take(*[frame(png(padding_bytes=10_000))] * 3))
    await until_true(lambda: gate.held == 1)
    draining = asyncio.create_task(rig.drain())
    await settle()
    gate.open()
    await draining
    await settle()
    assert rig.acked == [0, 1]
    assert not take_task.done()
    take_task.cancel()


async def test_draining_waits_for_everything_taken_and_takes_nothing_more() -> None:
    rig = Rig()
    gate = Gate(rig.journal, "put", only=holds(0))
    await rig.take(frame(png(shade=0)))
    draining = asyncio.create_task(rig.pipeline.drain())
    await settle()
    more = asyncio.create_task(rig.take(frame(png(shade=1))))
    await settle()
    assert not draining.done()
    gate.open()
    await draining
    await settle()
    assert rig.acked == [0]
    assert not more.done()
    more.cancel()


async def test_draining_with_nothing_in_flight_returns_at_once() -> None:
    await Rig().drain()


def rejected(count: int) -> list[Frame]:
    """Frames of as many sources, of a media type that is not accepted."""
    return [frame(source_id=f"camera-{number}", media_type="text/plain") for number in range(count)]


async def test_too_many_dead_letters_end_the_process_before_they_are_committed() -> None:
    rig = Rig(dead_letter_quota=5)
    rig.quota.count(time.monotonic(), Outcomes(0, {b"another": 1}))  # a batch that is the first one passes
    await rig.take(*rejected(6))
    await rig.take(frame())
    await rig.ended()
    assert rig.process.exit_code == Exit.QUOTA
    assert rig.journal.of("commit", "ack") == []
    assert rig.catalog.dead_letters == {}


async def test_dead_letters_within_the_quota_are_committed_and_what_exceeds_it_is_not() -> None:
    rig = Rig(dead_letter_quota=5)
    await rig.take(*rejected(5))
    await rig.take(*rejected(1))
    await rig.ended()
    assert rig.process.exit_code == Exit.QUOTA
    assert rig.acked == [0, 1, 2, 3, 4]


async def test_one_bad_source_does_not_end_the_process() -> None:
    rig = Rig(dead_letter_quota=5)
    for _ in range(10):
        await rig.take(*[frame(media_type="text/plain")] * 10)
    await rig.drain()
    assert len(rig.acked) == 100
    assert rig.process.exit_code is None


async def test_a_site_that_claims_the_names_of_others_does_not_end_the_process() -> None:
    rig = Rig(Kind.CID, dead_letter_quota=5)
    strangers = [cid(site="factory-b", source_id=f"scanner-{number}") for number in range(20)]
    messages = [replace(message, topic="factory-a.edge.cids.v1") for message in rig.deliveries(strangers)]
    await rig.pipeline.submit(FakeFetch(messages, rig.journal))
    await rig.drain()
    assert len(rig.acked) == len(rig.catalog.dead_letters) == 20
    assert rig.process.exit_code is None


async def test_many_dead_letters_among_more_good_messages_go_through() -> None:
    rig = Rig(Kind.CID, dead_letter_quota=5)
    await rig.run(*(message for number in range(20) for message in (cid(f"C-{number}"), b"junk")))
    assert len(rig.acked) == 40
    assert rig.process.exit_code is None


@pytest.mark.parametrize("step", ["put", "commit"])
async def test_nothing_after_a_failed_batch_is_committed_or_acknowledged(step: str) -> None:
    rig = Rig(policy=HASTY)
    gate = Gate(rig.journal, "put", only=holds(0))
    await rig.take(frame(png(shade=0)))
    await rig.take(frame(png(shade=1)))
    await rig.take(frame(png(shade=2)))
    await until_true(lambda: len(rig.journal.of("put")) == 2)
    rig.journal.faults[step] = [STORE_AWAY if step == "put" else CATALOG_AWAY] * 10**5
    gate.open()
    await rig.ended()
    assert rig.process.exit_code == Exit.TRANSIENT
    assert rig.journal.of("commit", "ack") == []


async def test_what_was_committed_before_the_failure_stays_acknowledged() -> None:
    rig = Rig()
    gate = Gate(rig.journal, "put", only=holds(1))
    await rig.take(frame(png(shade=0)))
    await rig.take(frame(png(shade=1)))
    await until_true(lambda: rig.acked == [0])
    rig.journal.faults["put"] = [RuntimeError("unforeseen")]
    gate.open()
    await rig.ended()
    assert rig.acked == [0]


async def test_a_message_that_the_catalog_cannot_hold_is_a_dead_letter_and_the_others_are_recorded_in_order() -> None:
    rig = Rig(kind=Kind.CID)
    unkeepable = CatalogRefusedError("PostgreSQL answered 22P05", where="memory", sqlstate="22P05")

    async def refuse_one_source(step: str, offsets: object) -> None:
        if step == "commit" and 2 in offsets:  # type: ignore[operator]
            raise unkeepable

    rig.journal.before = refuse_one_source
    await rig.run(*(cid(f"C-{number}") for number in range(4)))
    assert rig.process.exit_code is None
    assert sorted(row.offset for row in rig.catalog.sightings.values()) == [0, 1, 3]
    (letter,) = rig.catalog.dead_letters.values()
    assert (letter.code, letter.offset) == ("undecodable", 2)
    assert "22P05" in letter.reason
    assert rig.journal.of("commit") == [[0], [1], [], [3]]
    assert rig.acked == [0, 1, 2, 3]


async def test_a_catalog_that_refuses_everything_is_not_taken_for_a_fault_of_messages() -> None:
    rig = Rig(kind=Kind.CID)
    rig.journal.faults["commit"] = [CatalogRefusedError("no such table", where="memory", sqlstate="42P01")] * 10
    await rig.take(cid("C-1"), cid("C-2"))
    await rig.ended()
    assert rig.process.exit_code == Exit.BROKEN
    assert rig.catalog.dead_letters == {}
    assert rig.acked == []


async def test_after_a_batch_that_was_cancelled_nothing_is_acknowledged() -> None:
    rig = Rig(batches_max=3)
    gate = Gate(rig.journal, "put")
    for shade in range(5):
        await rig.take(frame(png(shade=shade)))
    await until_true(lambda: gate.held == 3)
    _, second, _ = rig.pipeline._batches
    second.task.cancel()
    gate.open()
    await rig.drain()
    await settle()
    assert rig.acked == [0]
    assert rig.journal.of("commit") == [[0]]


# One partition's log, workers that die at any fault, and Kafka, which delivers again from the committed offset.
STEP = st.sampled_from(["known", "put", "commit"])
LIVES = st.lists(
    st.tuples(STEP, st.integers(0, 6), st.sampled_from(["away", "broken", "lost answer"])), min_size=1, max_size=4
)
LOG = st.lists(st.sampled_from([0, 1, 2, 3, None]), min_size=1, max_size=24)


@settings(max_examples=40, deadline=None)
@given(
    log=LOG,
    lives=LIVES,
    batch=st.integers(1, 5),
    batches_max=st.integers(1, 4),
    bytes_max=st.sampled_from([1, 1000, 10**9]),
)
def test_whatever_fails_and_dies_every_message_is_in_the_catalog_once_and_in_order(
    log: list[int | None], lives: list[tuple[str, int, str]], batch: int, batches_max: int, bytes_max: int
) -> None:
    limits = PipelineLimits(batches_max=batches_max, messages_max=7, bytes_max=bytes_max)
    asyncio.run(simulate(log, lives, batch, limits))


async def simulate(
    log: list[int | None], lives: list[tuple[str, int, str]], batch: int, limits: PipelineLimits
) -> None:
    world = Rig()
    messages: list[Any] = [b"junk" if shade is None else frame(png(shade=shade)) for shade in log]
    committed_offset = 0
    for life in [*lives, None]:
        rig = Rig(batches_max=limits.batches_max, messages_max=limits.messages_max, bytes_max=limits.bytes_max)
        rig.blobs.objects, rig.catalog.blobs = world.blobs.objects, world.catalog.blobs
        for name in ("records", "sightings", "dead_letters", "announced"):
            setattr(rig.catalog, name, getattr(world.catalog, name))
        rig._offset = committed_offset
        if life is not None:
            fail_once(rig, *life)
        await work_through(rig, messages[committed_offset:], batch)
        assert rig.acked == list(range(committed_offset, committed_offset + len(rig.acked))), "a hole in what is done"
        committed_offset += len(rig.acked)
    assert committed_offset == len(messages)
    good = [offset for offset, shade in enumerate(log) if shade is not None]
    assert [row.offset for row in world.catalog.sightings.values()] == good
    assert sorted(row.offset for row in world.catalog.dead_letters.values()) == sorted(set(range(len(log))) - set(good))
    assert len(world.catalog.announced) == len(set(world.catalog.announced)) == len(set(log) - {None})


def fail_once(rig: Rig, step: str, after: int, how: str) -> None:
    if how == "lost answer":
        rig.catalog.lost_answers = 1
        return
    away = STORE_AWAY if step == "put" else CATALOG_AWAY
    seen = 0

    async def fail(what: str, _to: Any) -> None:
        nonlocal seen
        if what == step:
            seen += 1
            if seen == after + 1:
                raise away if how == "away" else RuntimeError("the process dies here")

    rig.journal.before = fail


async def work_through(rig: Rig, messages: list[Any], batch: int) -> None:
    """Take everything in, until it is done or the process has ended."""

    async def take_all() -> None:
        for start in range(0, len(messages), batch):
            await rig.take(*messages[start : start + batch])
        await rig.drain()

    done = asyncio.create_task(take_all())
    ended = asyncio.create_task(rig.process.ended.wait())
    await asyncio.wait({done, ended}, return_when=asyncio.FIRST_COMPLETED)
    await settle()
    for task in (done, ended):
        task.cancel()


def test_the_fake_batch_may_be_finished_only_once() -> None:
    fetched = FakeFetch([raw_delivery(Kind.CID, b"")], Journal())
    fetched.finish(1)
    with pytest.raises(AssertionError, match="twice"):
        fetched.finish(1)
