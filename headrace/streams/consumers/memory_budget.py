"""How much memory frames may take at a time; those that do not fit wait for the others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from headrace.schemas.limits import FRAME_BYTES_MAX, FRAME_PIXELS_MAX
from headrace.streams.consumers.pictures import REDUCED_BYTES_A_PIXEL_MAX

COPIES_OF_A_BODY = 2  # the client's and ours, for a moment
BODY_BYTES_AT_ONCE_MAX = COPIES_OF_A_BODY * FRAME_BYTES_MAX
DECODING_BYTES_AT_ONCE_MAX = FRAME_PIXELS_MAX * REDUCED_BYTES_A_PIXEL_MAX  # the largest frame alone, or several


class MemoryBudget:
    """Bounds the bytes that are held at a time, so that many large frames wait for each other."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._held = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[None]:
        """Wait until so many bytes fit; what is larger than the whole budget goes alone."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._held == 0 or self._held + size_bytes <= self._bytes_max)
            self._held += size_bytes
        try:
            yield
        finally:
            async with self._freed:
                self._held -= size_bytes
                self._freed.notify_all()


class FrameBudgets:
    """What a consumer that decodes frames may hold: the bodies of some, and what decoding a few of those takes."""

    def __init__(self) -> None:
        # A body is held while it waits to be decoded, never the other way round, so the two cannot block each other.
        self._bodies = MemoryBudget(BODY_BYTES_AT_ONCE_MAX)
        self.decoding = MemoryBudget(DECODING_BYTES_AT_ONCE_MAX)

    def body(self, size_bytes: int) -> AbstractAsyncContextManager[None]:
        """Wait until a body of so many bytes may be read; to be held for as long as the body is."""
        return self._bodies.hold(COPIES_OF_A_BODY * size_bytes)
