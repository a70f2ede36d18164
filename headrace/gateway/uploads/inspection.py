"""Probe files in child processes with limits of time and memory.

Headers and EXIF are parsed, pixels are not decoded. A file that crashes a library or exceeds a limit affects only the
child, and is rejected.
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
CHILD_MEMORY_BYTES_MAX = 1024 * MIB  # address space, of which an interpreter maps more than it uses
CHILD_RSS_BYTES = 96 * MIB  # resident, with the largest inline file
CHILD_TASKS_MAX = 2000  # then it is replaced, which frees what a library leaked
INSPECT_S_MAX = 5.0
EXIF_TAGS_MAX = 128
EXIF_TEXT_CHARACTERS_MAX = 500
FRAMES_MAX = 1000  # of an animated PNG or WebP


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
    """Probes files, at most CHILDREN at a time."""

    def __init__(self) -> None:
        self._pool = _new_pool()

    def stop(self) -> None:
        """Stop the children."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()

    async def inspect(self, head: bytes, size_bytes: int) -> Inspected:
        """Return the properties of a file of `size_bytes`, of which `head` is all or the beginning.

        Raises:
            RejectedError: the media type is not supported, or the file exceeds a limit, also while it is probed.
        """
        try:
            result = await self._probe(head, size_bytes)
        except (FutureTimeout, TimeoutError, ProcessExpired, MemoryError):
            raise RejectedError(RejectCode.NOT_AN_IMAGE, "probing timed out or exceeded its memory limit") from None
        if isinstance(result, Inspected):
            return result
        raise RejectedError(RejectCode(result[0]), result[1])

    async def _probe(self, head: bytes, size_bytes: int) -> Any:
        if not self._pool.active:
            # A child that dies while it is idle stops the whole pool.
            self._pool = _new_pool()
        return await asyncio.wrap_future(self._pool.schedule(probe, args=[head, size_bytes], timeout=INSPECT_S_MAX))


def _new_pool() -> ProcessPool:
    return ProcessPool(
        CHILDREN,
        max_tasks=CHILD_TASKS_MAX,
        initializer=_limit_resources,
        context=multiprocessing.get_context("forkserver"),
    )


def probe(head: bytes, size_bytes: int) -> Inspected | tuple[str, str]:
    """Return the properties of a file, or the code and the reason of its rejection; runs in the child."""
    try:
        header = media_header(head, size_bytes)
        if isinstance(header, VideoHeader):
            return Inspected(Kind.CLIP, header.media_type, header.width, header.height, header.duration_us)
        return Inspected(Kind.FRAME, header.media_type, header.width, header.height, exif=_exif(head))
    except RejectedError as rejected:  # an exception with two arguments cannot be unpickled
        return rejected.code.value, rejected.reason


def _exif(head: bytes) -> dict[str, Any]:
    """Return the printable EXIF tags; none where the EXIF data is malformed."""
    from PIL import ExifTags, Image

    try:
        with Image.open(BytesIO(head), formats=("JPEG", "PNG", "WEBP")) as image:
            frames = getattr(image, "n_frames", 1)
            tags = dict(image.getexif()) if frames == 1 or image.format != "JPEG" else {}
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
