"""An event loop beside the caller's thread, so that a synchronous call works wherever it is made."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

# Names are looked up in threads that wait for servers elsewhere. asyncio's own few would let some dead names hold up
# all others until their time is over too.
_THREADS_MAX = 128


class Background:
    """Runs coroutines in a thread of its own; may be used from several threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS_MAX, "headrace-background"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-background", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether it still runs."""
        return not self._loop.is_closed()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Begin; to cancel the future ends the work.

        Raises:
            RuntimeError: it was closed before.
        """
        if not self.is_open:
            work.close()
            raise RuntimeError("it is closed: open another one")
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work and return what it does; whoever is interrupted while he waits ends it."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs, and end the thread."""
        self.run(self._cancelled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancelled(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_default_executor()
