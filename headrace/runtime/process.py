"""Run a process: signals, a bounded shutdown, exit codes, and trimming of malloc's free memory."""

import asyncio
import ctypes
import faulthandler
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from threading import Timer

import uvloop

from headrace.runtime.background_task import background_task
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.wait_for_service import StoppedError

STOP_S_MAX = 18.0  # supervisors kill after 20 s; end two seconds earlier, with a log line

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc

LARGE_BLOCK_BYTES = 256 * 1024
ARENAS_MAX = 4
TRIM_EVERY_S = 10.0


def run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run `main` until it returns; SIGTERM and SIGINT set the event that it is given.

    A process that has not drained `STOP_S_MAX` seconds after the signal ends at once. Returns the exit code: that of
    `main`, 0 if it was still waiting for a service (`StoppedError`), or that of the `HeadraceError` it raised, which is
    printed without a traceback. Any other exception is logged, with secrets redacted, and returns `Exit.BROKEN`.
    Afterwards both signals are ignored: the process is about to end.
    """
    faulthandler.enable()
    is_trimming = configure_malloc()
    try:
        return uvloop.run(_until_stopped(main, is_trimming=is_trimming))
    except HeadraceError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the exit code reports it to the supervisor
        get_log().error(Action.HALTED, exit_code=int(Exit.BROKEN), why=type(error).__name__, exc_info=error)
        return Exit.BROKEN
    finally:
        # The loop has removed its handlers. A second signal must not replace the exit code while the interpreter ends.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


async def _until_stopped(main: Callable[[asyncio.Event], Awaitable[int]], *, is_trimming: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if not stop.is_set():
            get_log().info(Action.DRAINING)
            # A thread, because a blocked event loop could not end itself.
            forced_stop = Timer(STOP_S_MAX, _end_at_once)
            forced_stop.daemon = True
            forced_stop.start()
        stop.set()

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, on_signal)
    async with AsyncExitStack() as stack:
        if is_trimming:
            await stack.enter_async_context(background_task(trim_periodically()))
        try:
            code = await main(stop)
        except StoppedError:
            code = Exit.OK
    get_log().info(Action.STOPPED, exit_code=int(code))
    return code


def _end_at_once() -> None:
    get_log().error(Action.STOP_FORCED, after_s=STOP_S_MAX)
    faulthandler.dump_traceback(all_threads=True)
    os._exit(Exit.STUCK)


def configure_malloc() -> bool:
    """Configure glibc's malloc to return free blocks of LARGE_BLOCK_BYTES or more to the system; may be repeated.

    By default glibc raises this threshold to the largest block that was ever freed, up to 32 MiB, and keeps a heap for
    each of many threads, so that a worker keeps the memory of its largest burst. A MALLOC_ environment variable takes
    precedence: compose and systemd set some for the worker of large events, which is faster when it keeps its memory.
    Returns whether anything was changed; always False with other C libraries.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all(
            [
                mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES),
                mallopt(_M_TRIM_THRESHOLD, LARGE_BLOCK_BYTES),
                mallopt(_M_ARENA_MAX, ARENAS_MAX),
            ]
        )
    return False


def trim_malloc() -> bool:
    """Call `malloc_trim`, which returns free pages between used blocks to the system; takes some milliseconds.

    Returns whether any memory was returned; always False with other C libraries.
    """
    with suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).malloc_trim(0))
    return False


async def trim_periodically() -> None:
    """Call `trim_malloc` every TRIM_EVERY_S seconds, until cancelled."""
    while True:
        await asyncio.sleep(TRIM_EVERY_S)
        with suppress(RuntimeError):  # no thread available; try again later
            await asyncio.to_thread(trim_malloc)
