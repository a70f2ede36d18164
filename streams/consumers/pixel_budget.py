import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class PixelBudget:
    """Bounds how many pixels are decoded at a time, so that many large frames wait for each other."""

    def __init__(self, pixels_max: int) -> None:
        self._pixels_max = pixels_max
        self._held = 0
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def hold(self, pixels: int) -> AsyncIterator[None]:
        """Wait until so many pixels fit; a picture larger than the whole budget goes alone."""
        async with self._freed:
            await self._freed.wait_for(lambda: self._held == 0 or self._held + pixels <= self._pixels_max)
            self._held += pixels
        try:
            yield
        finally:
            async with self._freed:
                self._held -= pixels
                self._freed.notify_all()
