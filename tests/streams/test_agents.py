"""How an agent groups the events of its stream into batches."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import pytest

from headrace.streams.worker.agents import batches


async def stream_of(events: Iterable[Any], taken: list[Any]) -> AsyncIterator[Any]:
    """Give the events one after another, then wait for ever as a topic without new messages does."""
    for event in events:
        taken.append(event)
        yield event
    await asyncio.Event().wait()


async def test_events_that_are_there_together_are_one_batch() -> None:
    async with aclosing(batches(stream_of(range(5), []), messages_max=100, linger_s=0.05)) as grouped:
        assert await anext(grouped) == [0, 1, 2, 3, 4]


async def test_a_lone_event_leaves_when_its_linger_is_over() -> None:
    async with aclosing(batches(stream_of(["lone"], []), messages_max=100, linger_s=0.001)) as grouped:
        assert await anext(grouped) == ["lone"]


async def test_a_full_batch_does_not_wait() -> None:
    async with aclosing(batches(stream_of(range(7), []), messages_max=3, linger_s=3600)) as grouped:
        assert [await anext(grouped), await anext(grouped)] == [[0, 1, 2], [3, 4, 5]]


async def test_no_event_is_lost_or_reordered_when_a_linger_ends_between_two() -> None:
    async def trickle() -> AsyncIterator[Any]:
        for number in range(50):
            await asyncio.sleep(0.001)
            yield number
        await asyncio.Event().wait()

    collected: list[Any] = []
    async with aclosing(batches(trickle(), messages_max=4, linger_s=0.0015)) as grouped:
        while len(collected) < 50:
            batch = await anext(grouped)
            assert 1 <= len(batch) <= 4
            collected += batch
    assert collected == list(range(50))


async def test_while_a_batch_is_handled_at_most_two_more_events_are_taken() -> None:
    taken: list[Any] = []
    async with aclosing(batches(stream_of(range(100), taken), messages_max=3, linger_s=3600)) as grouped:
        assert await anext(grouped) == [0, 1, 2]
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(taken) <= 5


async def test_nothing_wakes_while_no_event_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    timers: list[Any] = []
    call_at = loop.call_at

    def counted(when: float, callback: Any, *args: Any, **kwargs: Any) -> Any:
        timers.append(callback)
        return call_at(when, callback, *args, **kwargs)

    async with aclosing(batches(stream_of([], []), messages_max=3, linger_s=0.001)) as grouped:
        waiting = asyncio.ensure_future(anext(grouped))
        for _ in range(10):
            await asyncio.sleep(0)
        monkeypatch.setattr(loop, "call_at", counted)
        for _ in range(100):
            await asyncio.sleep(0)
        assert timers == []
        monkeypatch.undo()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
