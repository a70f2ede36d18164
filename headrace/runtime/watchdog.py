"""A thread that ends the process when work is waiting but no progress is made.

The stacks of all threads go to the log, and the supervisor restarts the process.
"""

import faulthandler
import os
import time
from collections.abc import Callable
from threading import Event, Thread

from headrace.runtime.errors import Exit
from headrace.runtime.logs import Action, get_log

_POLL_S = 1.0


class Watchdog:
    """Ends the process with `Exit.STUCK` when work is waiting and progress stops for `limit_s` seconds.

    `waiting` returns whether there is work; `progress` returns a value that changes with any progress. Both are called
    from the thread of the watchdog, so that a blocked event loop is detected too. An exception in either counts as
    waiting work without progress.
    """

    def __init__(self, limit_s: float, *, waiting: Callable[[], bool], progress: Callable[[], object]) -> None:
        self._limit_s = limit_s
        self._waiting = waiting
        self._progress = progress
        self._still_since = time.monotonic()
        self._stopped = Event()
        self._failed = False
        self._thread = Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread."""
        self._stopped.set()
        self._thread.join()

    def livez(self) -> tuple[bool, str]:
        """Return whether the process makes progress, and the reason, for `/livez`."""
        still_s = time.monotonic() - self._still_since
        if still_s > self._limit_s / 2:
            return False, f"work is waiting and no progress was made for {still_s:.0f} s"
        return True, "making progress, or no work is waiting"

    def _watch(self) -> None:
        last: object = None
        while not self._stopped.wait(_POLL_S):
            now = time.monotonic()
            progress, waiting = self._read(last)
            if progress != last or not waiting:
                last = progress
                self._still_since = now
            elif now - self._still_since > self._limit_s:
                _end(now - self._still_since, progress)

    def _read(self, last: object) -> tuple[object, bool]:
        try:
            return self._progress(), self._waiting()
        except Exception as error:  # noqa: BLE001 - an unexpected error must not end the watchdog
            if not self._failed:
                self._failed = True
                get_log().error(Action.WATCH_FAILED, exc_info=error)
            return last, True


def _end(still_s: float, progress: object) -> None:
    # No error, such as a closed standard error, may prevent the exit.
    try:
        get_log().error(Action.STUCK, still_s=round(still_s), progress=repr(progress))
        faulthandler.dump_traceback(all_threads=True)
    finally:
        os._exit(Exit.STUCK)
