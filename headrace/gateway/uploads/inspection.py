"""Probe files and parse large JSON in child processes, with limits of time and memory, and a fair share per caller.

Headers and EXIF are parsed, pixels are not decoded. A file that crashes a library or exceeds a limit affects only the
child, and is rejected; one that takes too long is answered with 503, because the machine may only be busy.
"""

import asyncio
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from headrace.gateway.problems import unavailable
from headrace.gateway.uploads.memory import FairTurns, TurnTimeoutError
from headrace.schemas.events import Kind
from headrace.schemas.limits import MIB
from headrace.schemas.media_probe import VideoHeader, has_more_chunks
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import media_header

CHILDREN = 2
CHILD_MEMORY_BYTES_MAX = 1024 * MIB  # address space, of which an interpreter maps more than it uses
CHILD_RSS_BYTES = 96 * MIB  # resident, with the largest inline file
CHILD_TASKS_MAX = 2000  # then it is replaced, which frees what a library leaked
INSPECT_S_MAX = 5.0
EXIF_TAGS_MAX = 128
EXIF_TEXT_CHARACTERS_MAX = 500
FRAMES_MAX = 1000  # of an animated PNG or WebP
CHUNKS_MAX = 4096  # before the pixels: each costs Pillow time; an EXIF or ICC profile of 60 MB has about 1,000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Inspected:
    """The properties of a file; an image has a width and a height, a video may have them and a duration."""

    kind: Kind
    media_type: str
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None
    exif: dict[str, Any] = field(default_factory=dict)


class Inspector:
    """Runs work on what callers send in child processes, at most CHILDREN at a time and one for each caller."""

    def __init__(self) -> None:
        self._pool = _new_pool()
        self._turns = FairTurns(CHILDREN, of_caller=1)

    def stop(self) -> None:
        """Stop the children."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    async def inspect(self, head: bytes, size_bytes: int, *, caller: str) -> Inspected:
        """Return the properties of a file of `size_bytes`, of which `head` is all or the beginning.

        Raises:
            RejectedError: the media type is not supported, or the file exceeds a limit, also of memory.
            Problem: the probe took too long (503).
        """
        try:
            return await self.run(probe, head, size_bytes, caller=caller)
        except (ProcessExpired, MemoryError):
            raise RejectedError(RejectCode.NOT_AN_IMAGE, "probing exceeded its memory limit") from None

    async def run(self, work: Callable[..., T], *args: object, caller: str) -> T:
        """Return the result of a function of a module, in a child; it may raise RejectedError and Problem.

        Raises:
            RejectedError, Problem: as the function; a Problem (503) too where it took too long.
            ProcessExpired, MemoryError: the child ended, or had too little memory.
        """
        try:
            async with self._turns.turn(caller):
                if not self._pool.active:
                    # A child that dies while it is idle stops the whole pool.
                    self._pool = _new_pool()
                future = self._pool.schedule(work, args=args, timeout=INSPECT_S_MAX)
                result: T = await asyncio.wrap_future(future)
        except (FutureTimeout, TimeoutError, TurnTimeoutError):
            raise unavailable("examining the upload took too long") from None
        return result


def _new_pool() -> ProcessPool:
    return ProcessPool(
        CHILDREN,
        max_tasks=CHILD_TASKS_MAX,
        initializer=_limit_resources,
        context=multiprocessing.get_context("forkserver"),
    )


def probe(head: bytes, size_bytes: int) -> Inspected:
    """Return the properties of a file; runs in the child.

    Raises:
        RejectedError: the media type is not supported, or the file exceeds a limit.
    """
    header = media_header(head, size_bytes)
    if isinstance(header, VideoHeader):
        return Inspected(Kind.CLIP, header.media_type, header.width, header.height, header.duration_us)
    if has_more_chunks(head, CHUNKS_MAX):
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"the image has more than {CHUNKS_MAX} chunks of metadata")
    return Inspected(Kind.FRAME, header.media_type, header.width, header.height, exif=_exif(head))


def _exif(head: bytes) -> dict[str, Any]:
    """Return the printable EXIF tags; none where the EXIF data is malformed."""
    from PIL import ExifTags, Image

    try:
        with Image.open(BytesIO(head), formats=("JPEG", "PNG", "WEBP")) as image:
            frames = getattr(image, "n_frames", 1)
            exif = Image.Exif()
            if frames == 1 or image.format != "JPEG":
                # `image.getexif()` would decode the pixels of a PNG without EXIF.
                exif.load(image.info.get("exif", b""))
            tags = dict(exif)
    except Exception:  # noqa: BLE001 - a malformed file may raise any exception
        return {}
    if frames > FRAMES_MAX:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"the image has more than {FRAMES_MAX} frames")
    shown = {ExifTags.TAGS.get(tag, str(tag)): _shown(value) for tag, value in list(tags.items())[:EXIF_TAGS_MAX]}
    return {name: value for name, value in shown.items() if value is not None}


def _shown(value: object) -> str | int | float | None:
    match value:
        case bool() | bytes():
            return None
        case int():
            return value
        case str():
            text = "".join(char for char in value if char.isprintable())
            return text[:EXIF_TEXT_CHARACTERS_MAX] or None
        case _:
            try:
                number = float(value)  # type: ignore[arg-type]
            except (TypeError, ValueError, ZeroDivisionError):
                return None
            return number if abs(number) < 1e300 else None


def _limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY_BYTES_MAX, CHILD_MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
