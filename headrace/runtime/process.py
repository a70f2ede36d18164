"""How a process runs: signals, a bounded stop, and an exit code that says why it ended."""

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from threading import Timer

import uvloop

from headrace.runtime.background_task import background_task
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.memory import keep_giving_back, return_what_is_free
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
