"""A thread that ends the process when there is work but nothing moves.

Stuck consumers are the commonest complaint about stream processors. Whatever hangs here exits, with every thread's
stack in the log, and the supervisor starts it again: no process needs a person.
"""

import faulthandler
import os
import time
from collections.abc import Callable
from threading import Event, Thread

from headrace.runtime.errors import Exit
from headrace.runtime.logs import Action, get_log

_LOOK_S = 1.0


class Watchdog:
    """Ends the process with `Exit.STUCK` when work waits and progress stands still for `limit_s` seconds.

    `waiting` says whether there is work; `progress` returns any value that differs once something has moved. Both are
    called from the watchdog's thread, so that a blocked event loop is noticed too. One that raises counts as work that
    does not move: it must not be what keeps a stuck process alive.
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
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        self._thread.join()

    def livez(self) -> tuple[bool, str]:
        """Return whether the process moves, and a sentence, for `/livez`."""
        still_s = time.monotonic() - self._still_since
        if still_s > self._limit_s / 2:
            return False, f"work is waiting and nothing has moved for {still_s:.0f} s"
        return True, "moving, or nothing to do"

    def _watch(self) -> None:
        seen: object = None
        while not self._stopped.wait(_LOOK_S):
            now = time.monotonic()
            progress, waiting = self._look(seen)
            if progress != seen or not waiting:
                seen = progress
                self._still_since = now
            elif now - self._still_since > self._limit_s:
                _end(now - self._still_since, progress)

    def _look(self, seen: object) -> tuple[object, bool]:
        try:
            return self._progress(), self._waiting()
        except Exception as error:  # noqa: BLE001 - whatever it is, the watching goes on
            if not self._failed:
                self._failed = True
                get_log().error(Action.WATCH_FAILED, exc_info=error)
            return seen, True


def _end(still_s: float, progress: object) -> None:
    # Nothing on the way, not even a standard error that is gone, may keep the process.
    try:
        get_log().error(Action.STUCK, still_s=round(still_s), progress=repr(progress))
        faulthandler.dump_traceback(all_threads=True)
    finally:
        os._exit(Exit.STUCK)
