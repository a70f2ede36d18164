"""What a file is, found out in a process that may die alone.

Headers are read and EXIF is taken out, nothing is decoded. Whatever a file does to its reader (time, memory, a crash of
a library), it does to a child with limits, and the caller is told that the file is not usable.
"""

import asyncio
import multiprocessing
import resource
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pebble import ProcessExpired, ProcessPool

from headrace.schemas.events import Kind
from headrace.schemas.limits import MIB
from headrace.schemas.media_probe import VideoHeader
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import media_header

CHILDREN = 2
CHILD_MEMORY_BYTES_MAX = 1024 * MIB  # of addresses, which an interpreter maps many more of than it uses
CHILD_RSS_BYTES = 96 * MIB  # what it uses, with the largest inline file
CHILD_TASKS_MAX = 2000  # then a fresh one: whatever a library leaked goes with it
INSPECT_S_MAX = 5.0
EXIF_TAGS_MAX = 128
EXIF_TEXT_CHARACTERS_MAX = 500
PICTURES_MAX = 1000  # of an animated PNG or WebP


@dataclass(frozen=True, slots=True)
class Inspected:
    """What a file says of itself; an image has a width and height, a video may say them and how long it is."""

    kind: Kind
    media_type: str
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None
    exif: dict[str, Any] = field(default_factory=dict)


class Inspector:
    """Inspects files, a few at a time."""

    def __init__(self) -> None:
        self._pool = _new_pool()

    def stop(self) -> None:
        """End the children."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    async def inspect(self, head: bytes, size_bytes: int) -> Inspected:
        """Return what a file of `size_bytes` is, of which `head` is the whole or the beginning.

        Raises:
            Rejected: it is neither an image nor a video that is taken, goes beyond a limit, or was too much for its
                reader.
        """
        try:
            found = await self._looked(head, size_bytes)
        except (FutureTimeout, TimeoutError, ProcessExpired, MemoryError):
            raise RejectedError(RejectCode.NOT_AN_IMAGE, "the file was too much for whoever looked at it") from None
        if isinstance(found, Inspected):
            return found
        raise RejectedError(RejectCode(found[0]), found[1])

    async def _looked(self, head: bytes, size_bytes: int) -> Any:
        if not self._pool.active:
            # A child that is ended while it has nothing to do takes the whole pool with it.
            self._pool = _new_pool()
        return await asyncio.wrap_future(self._pool.schedule(look, args=[head, size_bytes], timeout=INSPECT_S_MAX))


def _new_pool() -> ProcessPool:
    return ProcessPool(
        CHILDREN,
        max_tasks=CHILD_TASKS_MAX,
        initializer=_limit_this_process,
        context=multiprocessing.get_context("forkserver"),
    )


def look(head: bytes, size_bytes: int) -> Inspected | tuple[str, str]:
    """Return what a file is, or a code and the reason why it is not taken; runs in the child."""
    try:
        header = media_header(head, size_bytes)
        if isinstance(header, VideoHeader):
            return Inspected(Kind.CLIP, header.media_type, header.width, header.height, header.duration_us)
        return Inspected(Kind.FRAME, header.media_type, header.width, header.height, exif=_exif(head))
    except RejectedError as rejected:  # its two arguments do not survive the way between processes
        return rejected.code.value, rejected.reason


def _exif(head: bytes) -> dict[str, Any]:
    """Return the EXIF that can be shown; broken EXIF is none."""
    from PIL import ExifTags, Image

    try:
        with Image.open(BytesIO(head), formats=("JPEG", "PNG", "WEBP")) as image:
            pictures = getattr(image, "n_frames", 1)
            tags = dict(image.getexif()) if pictures == 1 or image.format != "JPEG" else {}
    except Exception:  # noqa: BLE001 - a file may break its reader in any way
        return {}
    if pictures > PICTURES_MAX:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"the image has more than {PICTURES_MAX} pictures")
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


def _limit_this_process() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (CHILD_MEMORY_BYTES_MAX, CHILD_MEMORY_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
