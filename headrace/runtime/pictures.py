"""Decodes images with Pillow, whole and upright, and finds out whether they can be decoded at all.

Every way in asks `inspect_picture` before a frame is announced, so what is announced can be decoded. Decoding is slow,
and takes as much memory as the pixels need: it belongs in a thread or a child process.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import pillow_heif
from PIL import Image, ImageOps

from headrace.runtime.exif import captured_at_us_of, exif_of
from headrace.schemas.limits import FRAME_PIXELS_MAX
from headrace.schemas.media_probe import ImageHeader
from headrace.schemas.reject import RejectCode, RejectedError

FRAMES_MAX = 1000  # of an animated PNG or WebP
_FORMATS = {
    "image/avif": ("AVIF",),
    "image/heic": ("HEIF",),
    "image/heif": ("HEIF",),
    "image/jpeg": ("JPEG", "MPO"),
    "image/png": ("PNG",),
    "image/webp": ("WEBP",),
}
_SCALE = 8  # a JPEG is decoded to an eighth at once, which reads all of it and takes little memory

pillow_heif.register_heif_opener(thumbnails=False)
Image.MAX_IMAGE_PIXELS = FRAME_PIXELS_MAX  # what is larger is refused by its header


@dataclass(frozen=True, slots=True)
class Picture:
    """What decoding an image showed: the size in which it is shown, and its EXIF by name."""

    display_width: int
    display_height: int
    orientation: int
    exif: dict[str, Any]

    @property
    def captured_at_us(self) -> int | None:
        """The capture time of its EXIF; None where that declares none, or one without an offset from UTC."""
        return captured_at_us_of(self.exif)

    @property
    def details(self) -> dict[str, Any]:
        """How it is shown, as attributes of its record; empty where that is how it is stored."""
        if self.orientation == 1:
            return {}
        return {
            "orientation": self.orientation,
            "display_width": self.display_width,
            "display_height": self.display_height,
        }


def inspect_picture(data: bytes, header: ImageHeader) -> Picture:
    """Decode a whole image to find out that it can be, and return what it shows.

    Raises:
        RejectedError: NOT_AN_IMAGE, with the decoder's reason; FIELD_OUT_OF_RANGE for more than FRAMES_MAX pictures.
    """
    with _opened(data, header) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > FRAMES_MAX and image.format != "MPO":
            raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"the image has more than {FRAMES_MAX} frames")
        if image.format in _FORMATS["image/jpeg"]:
            image.draft(None, (image.width // _SCALE, image.height // _SCALE))
        image.load()
        orientation, exif = _orientation(image, header), exif_of(image.getexif())
    width, height = header.width, header.height
    if orientation >= 5:
        width, height = height, width
    return Picture(width, height, orientation, exif)


def decode_upright(data: bytes, header: ImageHeader, mode: str) -> Image.Image:
    """Return the whole image with its orientation applied, in `mode`: RGB or L.

    Raises:
        RejectedError: NOT_AN_IMAGE, with the decoder's reason.
    """
    with _opened(data, header) as image:
        image.load()
        # libheif applies the orientation itself; Pillow names that of an AVIF in EXIF.
        upright = image if image.format == "HEIF" else ImageOps.exif_transpose(image)
        return upright.convert(mode)


@contextmanager
def _opened(data: bytes, header: ImageHeader) -> Iterator[Image.Image]:
    try:
        with Image.open(BytesIO(data), formats=_FORMATS[header.media_type]) as image:
            yield image
    except (RejectedError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - a malformed file may raise any exception
        reason = (
            str(error).splitlines()[0][:200] if str(error) and "BytesIO" not in str(error) else type(error).__name__
        )
        raise RejectedError(RejectCode.NOT_AN_IMAGE, f"the picture cannot be decoded: {reason}") from None


def _orientation(image: Image.Image, header: ImageHeader) -> int:
    if header.media_type in {"image/jpeg", "image/png", "image/webp"}:
        value = image.getexif().get(0x0112, 1)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1
    return header.orientation
