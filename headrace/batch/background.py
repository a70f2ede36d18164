"""An event loop in a thread of its own, for synchronous callers."""

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

# The threads resolve host names. With asyncio's default of a few, some unresponsive name servers would delay all other
# look-ups until they time out.
_THREADS_MAX = 128


class BackgroundLoop:
    """Runs coroutines on a background thread; thread-safe."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_THREADS_MAX, "headrace-background"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="headrace-background", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether `close` was not called yet."""
        return not self._loop.is_closed()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
        """Start a coroutine; cancelling the future cancels it.

        Raises:
            RuntimeError: the loop is closed.
        """
        if not self.is_open:
            coroutine.close()
            raise RuntimeError("the client is closed; open a new one")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result; an interrupt of the caller cancels it."""
        future = self.submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel all running coroutines and end the thread."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cancel_all(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._loop.shutdown_default_executor()
