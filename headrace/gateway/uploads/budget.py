"""The memory that uploads share: who finds none left waits."""

import asyncio
from collections import deque

from headrace.gateway.problems import RETRY_AFTER_S, Problem, ProblemCode
from headrace.runtime.metrics import gateway_buffer_bytes, gateway_buffer_waiting
from headrace.schemas.limits import MIB

WAIT_S_MAX = 30.0
SMALL_BYTES_MAX = 1 * MIB  # most frames and every form without a file


class UploadMemory:
    """So many bytes for all uploads together, given out in the order of asking.

    A request reserves all that it may hold before it holds a byte. Reserved piece by piece, requests could each hold
    some and wait for the others' for ever.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._free = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> int:
        """Wait until so much is free, at most everything; returns how much was taken.

        What is small need not wait behind what is large.

        Raises:
            Problem: nothing became free in time (503).
        """
        size_bytes = min(size_bytes, self._bytes_max)
        behind = bool(self._waiting) and size_bytes > SMALL_BYTES_MAX
        if behind or self._free < size_bytes:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (size_bytes, turn)
            self._waiting.append(entry)
            with gateway_buffer_waiting.track_inprogress():
                try:
                    await asyncio.wait_for(turn, WAIT_S_MAX)
                except (asyncio.CancelledError, TimeoutError) as error:
                    if entry in self._waiting:
                        self._waiting.remove(entry)
                        self._give(0)  # who is behind may need less
                    elif turn.done() and not turn.cancelled():
                        self._give(size_bytes)
                    if isinstance(error, TimeoutError):
                        raise _full() from None
                    raise
        else:
            self._free -= size_bytes
        gateway_buffer_bytes.inc(size_bytes)
        return size_bytes

    def give(self, size_bytes: int) -> None:
        """Take so much back."""
        gateway_buffer_bytes.dec(size_bytes)
        self._give(size_bytes)

    def _give(self, size_bytes: int) -> None:
        self._free += size_bytes
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= wanted
                turn.set_result(None)


class MemoryReservation:
    """What one request may hold in memory; what does not fit goes to the store."""

    def __init__(self, budget: UploadMemory, size_bytes: int) -> None:
        """Reserve so much, once the first byte comes."""
        self._budget = budget
        self._size_bytes = size_bytes
        self._reserved: int | None = None
        self._held = 0

    async def hold(self, size_bytes: int) -> bool:
        """Take room for more bytes; False where there is none."""
        if self._reserved is None:
            self._reserved = await self._budget.take(self._size_bytes)
        if self._held + size_bytes > self._reserved:
            return False
        self._held += size_bytes
        return True

    def let_go(self, size_bytes: int) -> None:
        """Note that so much is held no more; what holds nothing reserves nothing."""
        self._held -= size_bytes
        if self._held <= 0 and self._reserved:
            reserved, self._reserved = self._reserved, None
            self._budget.give(reserved)

    def close(self) -> None:
        """Give everything back; may be repeated."""
        reserved, self._reserved, self._size_bytes = self._reserved, None, 0
        if reserved:
            self._budget.give(reserved)


def _full() -> Problem:
    return Problem(
        503,
        ProblemCode.UNAVAILABLE,
        "the gateway holds as many uploads as it may",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
