"""Inspect files and parse large JSON in child processes, with limits of time and memory, and a fair share per caller.

A picture is decoded to find out that it can be; a video is not. A file that crashes a library or exceeds a limit
affects only the child, and is rejected; one that takes too long is answered with 503: the machine may only be busy.
"""

import asyncio
import multiprocessing
import resource
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from headrace.gateway.problems import Problem, unavailable
from headrace.gateway.uploads.memory import FairTurns, TurnTimeoutError
from headrace.schemas.events import Kind
from headrace.schemas.limits import MIB
from headrace.schemas.media_probe import VideoHeader, probe_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import check_header

CHILDREN = 2
CHILD_MEMORY_BYTES_MAX = 1536 * MIB  # address space, of which an interpreter maps more than it uses
# Resident: with a picture of ORDINARY_PIXELS_MAX, and of FRAME_PIXELS_MAX, of which one is decoded at a time. A
# progressive JPEG takes most.
CHILD_RSS_BYTES = 256 * MIB
LARGE_CHILD_RSS_BYTES = 768 * MIB
ORDINARY_PIXELS_MAX = 25_000_000
CHILD_TASKS_MAX = 2000  # then it is replaced, which frees what a library leaked
INSPECT_S_MAX = 20.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inspected:
    """The properties of a file; an image has a width and a height, a video may have them and a duration.

    `captured_at_us` is that of its EXIF. `details` are further attributes of its record: the size in which it is shown,
    and what a video's header declares.
    """

    kind: Kind
    media_type: str
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None
    captured_at_us: int | None = None
    exif: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


class Inspector:
    """Runs work on what callers send in child processes, at most CHILDREN at a time and one for each caller."""

    def __init__(self) -> None:
        self._pool = _new_pool()
        self._turns = FairTurns(CHILDREN, of_caller=1)

    def stop(self) -> None:
        """Stop the children."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    async def inspect(self, body: bytes, *, caller: str) -> Inspected:
        """Return the properties of a file.

        Raises:
            RejectedError: the media type is not supported, the file is damaged or exceeds a limit, also of memory.
            Problem: it took too long (503).
        """
        return await self.inspect_later(_given(body), caller=caller)

    async def inspect_later(self, read: Callable[[], Awaitable[bytes]], *, caller: str) -> Inspected:
        """Return the properties of a file that is read once there is a turn for it; raises as `inspect`."""
        try:
            async with self._turn(caller):
                return await self._in_child(inspect_file, (await read(),))
        except (ProcessExpired, MemoryError):
            raise RejectedError(RejectCode.NOT_AN_IMAGE, "decoding exceeded its memory limit") from None

    async def run(self, work: Callable[..., T], *args: object, caller: str) -> T:
        """Return the result of a function of a module, in a child; it may raise RejectedError and Problem.

        Raises:
            RejectedError, Problem: as the function; a Problem (503) too where it took too long.
            ProcessExpired, MemoryError: the child ended, or had too little memory.
        """
        async with self._turn(caller):
            return await self._in_child(work, args)

    @asynccontextmanager
    async def _turn(self, caller: str) -> AsyncIterator[None]:
        try:
            async with self._turns.turn(caller):
                yield
        except TurnTimeoutError:
            raise _too_slow() from None

    async def _in_child(self, work: Callable[..., T], args: tuple[object, ...]) -> T:
        if not self._pool.active:
            # A child that dies while it is idle stops the whole pool.
            self._pool = _new_pool()
        try:
            result: T = await asyncio.wrap_future(self._pool.schedule(work, args=args, timeout=INSPECT_S_MAX))
        except (FutureTimeout, TimeoutError):
            raise _too_slow() from None
        return result


def _too_slow() -> Problem:
    return unavailable("examining the upload took too long")


def _given(body: bytes) -> Callable[[], Awaitable[bytes]]:
    async def read() -> bytes:
        return body

    return read


def _new_pool() -> ProcessPool:
    context = multiprocessing.get_context("forkserver")
    return ProcessPool(
        CHILDREN, max_tasks=CHILD_TASKS_MAX, initializer=_begin_child, initargs=(context.Lock(),), context=context
    )


def inspect_file(body: bytes) -> Inspected:
    """Return the properties of a whole file; runs in the child.

    Raises:
        RejectedError: the media type is not supported, or the file is damaged or exceeds a limit.
    """
    header = probe_of(body).header()
    check_header(header, len(body))
    if isinstance(header, VideoHeader):
        return inspected_video(header)
    from headrace.runtime.pictures import inspect_picture

    with _one_large_picture if header.width * header.height > ORDINARY_PIXELS_MAX else nullcontext():
        picture = inspect_picture(body, header)
    return Inspected(
        Kind.FRAME,
        header.media_type,
        header.width,
        header.height,
        captured_at_us=picture.captured_at_us,
        exif=picture.exif,
        details=picture.details,
    )


def inspected_video(header: VideoHeader) -> Inspected:
    """Return the properties of a video."""
    return Inspected(
        Kind.CLIP, header.media_type, header.width, header.height, header.duration_us, details={"video": header.details}
    )


_one_large_picture: AbstractContextManager[Any] = nullcontext()


def _begin_child(one_large_picture: AbstractContextManager[Any]) -> None:
    global _one_large_picture  # noqa: PLW0603 - how a pool's initializer gives something to its tasks
    _one_large_picture = one_large_picture
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY_BYTES_MAX, CHILD_MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
