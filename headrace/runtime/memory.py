"""What the C library does with memory that is free again."""

import asyncio
import ctypes
import os
from contextlib import suppress

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
