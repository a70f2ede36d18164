"""How a process runs: signals, a bounded stop, and an exit code that says why it ended."""

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

STOP_S_MAX = 18.0  # a supervisor kills after 20 s; two seconds earlier we end by ourselves and say so


def run(main: Callable[[asyncio.Event], Awaitable[int]]) -> int:
    """Run `main` until it returns; SIGTERM and SIGINT set the event that it is given.

    A process that has not drained `STOP_S_MAX` seconds after the signal ends at once. Returns the exit code: what
    `main` returned, 0 where it was still waiting for a service (`Stopped`), or that of the `HeadraceError` that it
    raised, printed without a traceback. What nobody foresaw goes to the log, which takes secrets out of it, and is
    `Exit.BROKEN`.
    """
    faulthandler.enable()
    returning = return_what_is_free()
    try:
        return uvloop.run(_until_stopped(main, giving_back=returning))
    except HeadraceError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the supervisor is to learn that it was not foreseen
        get_log().error(Action.HALTED, exit_code=int(Exit.BROKEN), why=type(error).__name__, exc_info=error)
        return Exit.BROKEN


async def _until_stopped(main: Callable[[asyncio.Event], Awaitable[int]], *, giving_back: bool) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if not stop.is_set():
            get_log().info(Action.DRAINING)
            # A thread, because an event loop that is blocked could not end itself.
            last = Timer(STOP_S_MAX, _end_at_once)
            last.daemon = True
            last.start()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    async with AsyncExitStack() as stack:
        if giving_back:
            await stack.enter_async_context(background_task(keep_giving_back()))
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


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc

LARGE_BLOCK_BYTES = 256 * 1024
ARENAS_MAX = 4
GIVE_BACK_EVERY_S = 10.0


def return_what_is_free() -> bool:
    """Let blocks of LARGE_BLOCK_BYTES and more go back to the system as soon as they are free; may be repeated.

    By itself glibc raises that limit to the largest block that was ever freed, up to 32 MiB, and keeps a heap for each
    of many threads: a worker that once held a burst of frames would look as if it still did. Whoever starts a process
    may have chosen otherwise, as compose and systemd do for the worker of large events, which is faster when it keeps
    what it has: a MALLOC_ variable wins. Returns whether anything was changed; other C libraries take no such wish.
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


def give_back() -> bool:
    """Return free pages from the middle of the heaps too, which no limit does by itself; takes some milliseconds.

    After a burst of uploads or frames a process would keep the pages between the few blocks that are still used.
    Returns whether anything was returned; other C libraries have no such call.
    """
    with suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).malloc_trim(0))
    return False


async def keep_giving_back() -> None:
    """Give back every GIVE_BACK_EVERY_S, until cancelled."""
    while True:
        await asyncio.sleep(GIVE_BACK_EVERY_S)
        with suppress(RuntimeError):  # there was no thread to be had; there will be
            await asyncio.to_thread(give_back)
