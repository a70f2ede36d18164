"""Limit the memory that requests hold together, and the share of each caller.

Bytes are taken as they arrive, so that a slow upload holds what it has sent and no more. What finds no memory is staged
in the blob store or refused, and does not wait for others: uploads that each hold some and wait for more would wait
forever. Only work at the gateway's own speed waits, such as assembling an upload.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from headrace.gateway.problems import Problem, unavailable
from headrace.runtime.metrics import gateway_buffer_bytes, gateway_buffer_waiting

WAIT_S_MAX = 30.0
TURN_S_MAX = 30.0
SHARE_OF_CALLER = 0.5
STAGINGS_MAX = 32  # at a time; the client of the store holds up to three parts of 8 MiB for each
STAGINGS_OF_CALLER_MAX = 8


class TurnTimeoutError(Exception):
    """No turn came within TURN_S_MAX seconds."""


class FairTurns:
    """A number of turns at a time, of which each caller has or waits for `of_caller`: they take them in rotation."""

    def __init__(self, turns: int, *, of_caller: int) -> None:
        self._turns = asyncio.Semaphore(turns)
        self._of_caller_max = of_caller
        self._of_caller: dict[str, asyncio.Semaphore] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for a turn, which lasts as long as the context.

        Raises:
            TurnTimeoutError: none came in time.
        """
        own = self._of_caller.setdefault(caller, asyncio.Semaphore(self._of_caller_max))
        self._users[caller] += 1
        try:
            async with AsyncExitStack() as turns:
                try:
                    async with asyncio.timeout(TURN_S_MAX):
                        for semaphore in (own, self._turns):
                            await turns.enter_async_context(semaphore)
                except TimeoutError:
                    raise TurnTimeoutError from None
                yield
        finally:
            self._users[caller] -= 1
            if not self._users[caller]:
                del self._users[caller], self._of_caller[caller]


class UploadMemory:
    """A number of bytes that all callers share; a caller gets at most SHARE_OF_CALLER of them."""

    def __init__(self, bytes_max: int) -> None:
        self._free = bytes_max
        self._share_max = int(bytes_max * SHARE_OF_CALLER)
        self._held: Counter[str] = Counter()
        self.stagings = FairTurns(STAGINGS_MAX, of_caller=STAGINGS_OF_CALLER_MAX)
        self._waiting: list[tuple[str, int, asyncio.Future[None]]] = []

    def take(self, caller: str, size_bytes: int) -> bool:
        """Take bytes for a caller; returns False where too few are free or its share is used up."""
        if size_bytes > self._free or self._held[caller] + size_bytes > self._share_max:
            return False
        self._free -= size_bytes
        self._held[caller] += size_bytes
        gateway_buffer_bytes.inc(size_bytes)
        return True

    def give_back(self, caller: str, size_bytes: int) -> None:
        """Free bytes of a caller."""
        self._free += size_bytes
        self._held[caller] -= size_bytes
        if not self._held[caller]:
            del self._held[caller]
        gateway_buffer_bytes.dec(size_bytes)
        # In order; a caller whose share is used up is passed over.
        for entry in tuple(self._waiting):
            waiting, wanted, turn = entry
            if self.take(waiting, wanted):
                self._waiting.remove(entry)
                turn.set_result(None)
            elif wanted > self._free:
                break

    async def reserve(self, caller: str, size_bytes: int) -> int:
        """Wait until `size_bytes` are free, or a caller's whole share if that is less; returns the number of bytes.

        Raises:
            Problem: too few bytes became free in time (503).
        """
        size_bytes = min(size_bytes, self._share_max)
        if not self._waiting and self.take(caller, size_bytes):
            return size_bytes
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (caller, size_bytes, turn)
        self._waiting.append(entry)
        self.give_back(caller, 0)  # another caller's share may be what the first in line waits for
        with gateway_buffer_waiting.track_inprogress():
            try:
                await asyncio.wait({turn}, timeout=WAIT_S_MAX)
            except asyncio.CancelledError:
                if turn.done():
                    self.give_back(caller, size_bytes)
                raise
            finally:
                if not turn.done():
                    self._waiting.remove(entry)
                    self.give_back(caller, 0)  # the next one may need less
        if not turn.done():
            raise _exhausted()
        return size_bytes


class MemoryReservation:
    """The memory of one request."""

    def __init__(self, memory: UploadMemory, caller: str) -> None:
        self._memory = memory
        self._caller = caller
        self._held = 0

    def hold(self, size_bytes: int) -> bool:
        """Hold more bytes; returns False where there is no memory for them."""
        if not self._memory.take(self._caller, size_bytes):
            return False
        self._held += size_bytes
        return True

    def require(self, size_bytes: int) -> None:
        """Hold more bytes.

        Raises:
            Problem: there is no memory for them (503).
        """
        if not self.hold(size_bytes):
            raise _exhausted()

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[None]:
        """Wait for a turn to send a body to the store.

        Raises:
            Problem: none came in time (503).
        """
        try:
            async with self._memory.stagings.turn(self._caller):
                yield
        except TurnTimeoutError:
            raise _exhausted() from None

    def release(self, size_bytes: int) -> None:
        """Release held bytes."""
        self._held -= size_bytes
        self._memory.give_back(self._caller, size_bytes)

    def close(self) -> None:
        """Release all held bytes; may be repeated."""
        self.release(self._held)


def _exhausted() -> Problem:
    return unavailable("the memory for requests is exhausted, or this caller's share of it")
