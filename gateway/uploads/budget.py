"""The memory that uploads share: who finds none left waits."""

import asyncio
from collections import deque

from runtime.metrics import gateway_buffer_bytes, gateway_buffer_waiting


class Budget:
    """So many bytes for all uploads together, given out in the order of asking.

    A request reserves all that it may hold before it holds a byte. Reserved piece by piece, requests could each hold
    some and wait for the others' for ever.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._free = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size_bytes: int) -> int:
        """Wait until so much is free, at most everything; returns how much was taken."""
        size_bytes = min(size_bytes, self._bytes_max)
        if self._waiting or self._free < size_bytes:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            entry = (size_bytes, turn)
            self._waiting.append(entry)
            with gateway_buffer_waiting.track_inprogress():
                try:
                    await turn
                except asyncio.CancelledError:
                    if turn.done() and not turn.cancelled():
                        self._give(size_bytes)
                    else:
                        self._waiting.remove(entry)
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


class Room:
    """What one request may hold in memory; what does not fit goes to the store."""

    def __init__(self, budget: Budget, size_bytes: int) -> None:
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
        """Note that so much is held no more."""
        self._held -= size_bytes

    def close(self) -> None:
        """Give everything back; may be repeated."""
        reserved, self._reserved, self._size_bytes = self._reserved, None, 0
        if reserved:
            self._budget.give(reserved)
