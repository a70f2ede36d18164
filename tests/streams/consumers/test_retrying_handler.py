import asyncio
from uuid import uuid4

import pytest
import structlog

from headrace.schemas.events import Ingested
from headrace.store.errors import BlobErasedError, StoreUnavailableError
from headrace.streams.consumers import retrying_handler as retrying_handler_module
from headrace.streams.consumers.group_consumer import PolledBatch, PolledEvent
from headrace.streams.consumers.handler_errors import HandlerErrors, OnError
from headrace.streams.consumers.pictures import MemoryBudget
from headrace.streams.consumers.retrying_handler import Handled, RetryingHandler
from headrace.streams.worker.retry import RetryPolicy

QUICK = RetryPolicy(delay_s=0.001, delay_s_max=0.004, deadline_s=5.0)
ONE, TWO = ("t", 0), ("t", 1)


def taken(sequence: int, partition: tuple[str, int]) -> PolledEvent:
    event = Ingested(
        source_id="camera",
        site="here",
        captured_at_us=1,
        sequence=sequence,
        event_id=str(uuid4()),
        record_id=str(uuid4()),
        kind="frame",
        digest="0" * 64,
        ingested_at_us=1,
        media_type="image/png",
        size_bytes=1,
        store_key="x",
    )
    return PolledEvent(event, None, partition, sequence)


def batch(**counts: int) -> PolledBatch:
    partitions = {"one": ONE, "two": TWO}
    made = {
        partitions[name]: [taken(offset, partitions[name]) for offset in range(count)] for name, count in counts.items()
    }
    return PolledBatch(made, {partition: len(events) for partition, events in made.items()})


async def handled_by(
    handle, batch: PolledBatch, policy: RetryPolicy = QUICK, stop: asyncio.Event | None = None
) -> Handled:
    return await RetryingHandler("g", handle, policy, stop or asyncio.Event()).run(batch)


async def test_a_partition_is_in_order_and_the_partitions_are_beside_each_other():
    running, both, order = set(), asyncio.Event(), []

    async def handle(event: PolledEvent) -> None:
        running.add(event.partition)
        if len(running) == 2:
            both.set()
        await asyncio.wait_for(both.wait(), 5)
        order.append((event.partition, event.offset))

    done = await handled_by(handle, batch(one=3, two=3))
    assert [offset for partition, offset in order if partition == ONE] == [0, 1, 2]
    assert done == Handled({ONE: 3, TWO: 3}, {}, [])


async def test_a_failure_is_tried_again_before_what_comes_after_it():
    calls = []

    async def handle(event: PolledEvent) -> None:
        calls.append(event.offset)
        if len(calls) < 4:
            raise ValueError("not yet")

    done = await handled_by(handle, batch(one=2))
    assert calls == [0, 0, 0, 0, 1]
    assert done.errors == []


async def test_past_the_deadline_the_error_is_given_up_and_the_others_are_finished():
    async def handle(event: PolledEvent) -> None:
        if event.partition == ONE and event.offset == 1:
            raise ValueError("never")

    done = await handled_by(handle, batch(one=3, two=3), RetryPolicy(0.001, 0.004, 0.05))
    assert done.next_offsets == {ONE: 1, TWO: 3}
    assert done.unfinished == {ONE: 1}
    assert [str(error) for error in done.errors] == ["never"]


async def test_a_handler_that_hangs_is_ended_at_the_deadline():
    async def handle(_event: PolledEvent) -> None:
        await asyncio.Event().wait()

    done = await handled_by(handle, batch(one=1), RetryPolicy(0.001, 0.004, 0.05))
    assert isinstance(done.errors[0], TimeoutError)
    assert done.next_offsets == {ONE: 0}


async def test_after_a_stop_nothing_further_is_begun():
    stop, calls = asyncio.Event(), []

    async def handle(event: PolledEvent) -> None:
        calls.append(event.offset)
        stop.set()

    done = await handled_by(handle, batch(one=5), stop=stop)
    assert calls == [0]
    assert (done.next_offsets, done.unfinished, done.errors) == ({ONE: 1}, {ONE: 1}, [])


async def test_a_batch_that_takes_too_long_is_given_back(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrying_handler_module, "BATCH_S_MAX", 0.03)

    async def handle(_event: PolledEvent) -> None:
        await asyncio.sleep(0.02)

    done = await handled_by(handle, batch(one=10))
    assert 1 <= done.next_offsets[ONE] < 10
    assert done.unfinished == {ONE: done.next_offsets[ONE]}


async def test_large_pictures_wait_for_each_other_and_small_ones_do_not():
    budget, at_once, most = MemoryBudget(100), 0, 0

    async def decode(pixels: int) -> None:
        nonlocal at_once, most
        async with budget.hold(pixels):
            at_once += pixels
            most = max(most, at_once)
            await asyncio.sleep(0)
            at_once -= pixels

    await asyncio.gather(*(decode(60) for _ in range(5)), *(decode(20) for _ in range(5)))
    assert 60 <= most <= 100
    await asyncio.wait_for(decode(1000), 5)


async def test_an_event_whose_bytes_were_erased_is_passed_over() -> None:
    handled: list[int] = []

    async def handle(event: PolledEvent) -> None:
        if event.offset == 1:
            raise BlobErasedError(event.event.digest, where="store")
        handled.append(event.offset)

    done = await handled_by(handle, batch(one=3))
    assert (handled, done.next_offsets, done.unfinished, done.errors) == ([0, 2], {ONE: 3}, {}, [])


async def test_with_skip_a_handlers_own_error_is_logged_with_its_line_and_passed_over():
    async def handle(event: PolledEvent) -> None:
        if event.offset == 0:
            raise ValueError("wrong picture")

    with structlog.testing.capture_logs() as logs:
        done = await RetryingHandler(
            "g", handle, QUICK, asyncio.Event(), errors=HandlerErrors(OnError.SKIP, handle)
        ).run(batch(one=2))
    assert done == Handled({ONE: 2}, {}, [])
    [line] = logs
    assert (line["event"], line["why"], line["skipped"]) == ("handler_failed", "ValueError: wrong picture", True)
    assert line["at"].startswith("test_retrying_handler.py:")


async def test_with_skip_an_absent_service_is_waited_for():
    calls = []

    async def handle(event: PolledEvent) -> None:
        calls.append(event.offset)
        if len(calls) < 3:
            raise StoreUnavailableError("no answer", where="s3://bucket")

    done = await RetryingHandler("g", handle, QUICK, asyncio.Event(), errors=HandlerErrors(OnError.SKIP, handle)).run(
        batch(one=1)
    )
    assert (calls, done.errors) == ([0, 0, 0], [])


async def test_with_stop_the_first_error_ends_it():
    calls = []

    async def handle(event: PolledEvent) -> None:
        calls.append(event.offset)
        raise ValueError("stop here")

    done = await RetryingHandler("g", handle, QUICK, asyncio.Event(), errors=HandlerErrors(OnError.STOP, handle)).run(
        batch(one=2)
    )
    assert (calls, [str(error) for error in done.errors], done.unfinished) == ([0], ["stop here"], {ONE: 0})
