import asyncio
import signal

import pytest

from headrace.streams.consumers.interrupt import stopped_by_ctrl_c


async def test_the_first_interrupt_stops_and_the_second_is_pythons_own():
    before = signal.getsignal(signal.SIGINT)
    stop = asyncio.Event()
    with stopped_by_ctrl_c(stop):
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(stop.wait(), 5)
        assert signal.getsignal(signal.SIGINT) is before
    assert signal.getsignal(signal.SIGINT) is before


async def test_without_an_interrupt_the_handler_is_put_back():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="own"), stopped_by_ctrl_c(asyncio.Event()):
        raise ValueError("own")
    assert signal.getsignal(signal.SIGINT) is before


async def test_another_thread_changes_nothing():
    before = signal.getsignal(signal.SIGINT)

    async def inside() -> object:
        with stopped_by_ctrl_c(asyncio.Event()):
            return signal.getsignal(signal.SIGINT)

    assert await asyncio.to_thread(lambda: asyncio.run(inside())) is before
