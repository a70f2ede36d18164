"""Limit the memory that all uploads hold together; a request waits while there is not enough."""

import asyncio
from collections import deque

from headrace.gateway.problems import RETRY_AFTER_S, Problem, ProblemCode
from headrace.runtime.metrics import gateway_buffer_bytes, gateway_buffer_waiting
from headrace.schemas.limits import MIB

WAIT_S_MAX = 30.0
SMALL_BYTES_MAX = 1 * MIB  # most frames, and every form without a file


class UploadMemory:
    """A number of bytes that uploads share, reserved in the order of the requests.

    A request reserves everything that it may hold before it holds a byte: requests that reserve piece by piece could
    each hold some and wait for the others forever.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._free = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def reserve(self, size_bytes: int) -> int:
        """Wait until `size_bytes` are free, or all bytes if that is less; returns the number of reserved bytes.

        Small reservations do not wait behind large ones.

        Raises:
            Problem: too few bytes became free in time (503).
        """
        size_bytes = min(size_bytes, self._bytes_max)
        must_queue = bool(self._waiting) and size_bytes > SMALL_BYTES_MAX
        if must_queue or self._free < size_bytes:
            await self._wait(size_bytes)
        else:
            self._free -= size_bytes
        gateway_buffer_bytes.inc(size_bytes)
        return size_bytes

    def release(self, size_bytes: int) -> None:
        """Free reserved bytes."""
        gateway_buffer_bytes.dec(size_bytes)
        self._free_up(size_bytes)

    async def _wait(self, size_bytes: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size_bytes, turn)
        self._waiting.append(entry)
        with gateway_buffer_waiting.track_inprogress():
            try:
                await asyncio.wait_for(turn, WAIT_S_MAX)
            except (asyncio.CancelledError, TimeoutError) as error:
                if entry in self._waiting:
                    self._waiting.remove(entry)
                    self._free_up(0)  # the next one may need less
                elif turn.done() and not turn.cancelled():
                    self._free_up(size_bytes)
                if isinstance(error, TimeoutError):
                    raise _full() from None
                raise

    def _free_up(self, size_bytes: int) -> None:
        self._free += size_bytes
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._free -= wanted
                turn.set_result(None)


class MemoryReservation:
    """The memory of one request; what does not fit is staged in the blob store."""

    def __init__(self, memory: UploadMemory, size_bytes: int) -> None:
        """Reserve `size_bytes` when the first byte is held."""
        self._memory = memory
        self._size_bytes = size_bytes
        self._reserved: int | None = None
        self._held = 0

    async def hold(self, size_bytes: int) -> bool:
        """Hold more bytes; returns False where they exceed the reservation."""
        if self._reserved is None:
            self._reserved = await self._memory.reserve(self._size_bytes)
        if self._held + size_bytes > self._reserved:
            return False
        self._held += size_bytes
        return True

    def release(self, size_bytes: int) -> None:
        """Release held bytes; the reservation ends when none are held."""
        self._held -= size_bytes
        if self._held <= 0 and self._reserved:
            reserved, self._reserved = self._reserved, None
            self._memory.release(reserved)

    def close(self) -> None:
        """End the reservation; may be repeated."""
        reserved, self._reserved, self._size_bytes = self._reserved, None, 0
        if reserved:
            self._memory.release(reserved)


def _full() -> Problem:
    return Problem(
        503,
        ProblemCode.UNAVAILABLE,
        "the memory for uploads is exhausted",
        headers={"Retry-After": str(RETRY_AFTER_S)},
    )
