"""The service with one thing in it that stands still for ever: `python -m tests.faults.hang HANG ARGUMENTS…`.

Nothing ends, nothing raises and nothing is logged: whoever notices has to notice that nothing moves.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import count
from typing import Any, NoReturn

from aiokafka.consumer.group_coordinator import GroupCoordinator

from headrace.cli.app import main
from headrace.schemas.events import Kind
from headrace.streams.core.delivery import ConsumedMessage
from headrace.streams.core.examine import DecodedBatch
from headrace.streams.worker.ingest import Ingest

_WELL = 3
"""How many batches go well before, so that it is a running process that hangs and not a start."""


class Hang(StrEnum):
    """What stands still."""

    AGENT = "agent"  # the batches of one kind, while those of the other kind move
    LOOP = "loop"  # the event loop, and with it everything but the threads
    REJOIN = "rejoin"  # the consumer's way back into its group after a rebalance


def hang_agent() -> None:
    """Let the batches of whichever kind is first to have had some of them never be prepared again."""
    hanging: Kind | None = None
    numbers = {kind: count(1) for kind in Kind}

    async def stands_still(kind: Kind) -> None:
        nonlocal hanging
        if next(numbers[kind]) > _WELL and hanging is None:
            hanging = kind
        if kind is hanging:
            await asyncio.Event().wait()

    _before_each_batch(stands_still)


def hang_loop() -> None:
    """Let the event loop never come back."""
    numbers = count(1)

    async def sleeps(_kind: Kind) -> None:
        if next(numbers) > _WELL:
            _for_ever()

    _before_each_batch(sleeps)


def hang_rejoin() -> None:
    """Let the consumer join its group once, and never again."""
    join: Callable[..., Any] = GroupCoordinator._do_rejoin_group
    joined = False

    async def once(self: Any, subscription: Any) -> Any:
        nonlocal joined
        if joined:
            await asyncio.Event().wait()
        joined = bool(await join(self, subscription))
        return joined

    GroupCoordinator._do_rejoin_group = once


def _before_each_batch(wait: Callable[[Kind], Any]) -> None:
    decode = Ingest.decode

    async def decode_late(self: Ingest, kind: Kind, messages: Sequence[ConsumedMessage]) -> DecodedBatch:
        await wait(kind)
        return await decode(self, kind, messages)

    Ingest.decode = decode_late  # type: ignore[method-assign]


def _for_ever() -> NoReturn:
    while True:
        time.sleep(3600)


_HANGS = {Hang.AGENT: hang_agent, Hang.LOOP: hang_loop, Hang.REJOIN: hang_rejoin}

if __name__ == "__main__":
    _HANGS[Hang(sys.argv.pop(1))]()
    main()
