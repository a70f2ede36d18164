"""What the bytes of a file are: type, size, duration. The only place that decides it, for every way in.

It depends on the bytes alone, and on all of them: not on the name, the declared type, or how much of the file was in
memory. Nothing is decoded, and of a file of any size little is held. Hostile bytes cost a bounded number of steps.
"""

from headrace.schemas.media.formats import SNIFF_BYTES, TAKEN, Family, Format, format_of
from headrace.schemas.media.headers import ImageHeader, VideoHeader
from headrace.schemas.media.heif import heif
from headrace.schemas.media.movie import movie
from headrace.schemas.media.reading import Parser, Skip, StreamReader
from headrace.schemas.media.still_images import jpeg, png, webp
from headrace.schemas.reject import RejectCode, RejectedError

__all__ = [
    "ImageHeader",
    "MediaProbe",
    "VideoHeader",
    "format_of",
    "image_header",
    "image_header_of",
    "probe_of",
]


class MediaProbe:
    """Reads the header of one file: `feed` every chunk of it, in order, then ask for the `header`."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._reader: StreamReader[ImageHeader | VideoHeader] | None = None

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes; never raises, whatever they are."""
        if self._reader is not None:
            self._reader.feed(chunk)
            return
        needed = SNIFF_BYTES - len(self._head)
        self._head += chunk[:needed]
        if len(self._head) == SNIFF_BYTES:
            self._begin().feed(chunk[needed:])

    def header(self) -> ImageHeader | VideoHeader:
        """Return the header of the file, once all of it was fed; may be repeated.

        Raises:
            RejectedError: NOT_AN_IMAGE or NOT_A_VIDEO, with the format's name or what is wrong with the file;
                FIELD_OUT_OF_RANGE for a file of too many segments, chunks or boxes.
        """
        reader = self._begin() if self._reader is None else self._reader
        return reader.finish()

    def image(self) -> ImageHeader:
        """Return the header of an image; raises as `header`, always with NOT_AN_IMAGE for another file."""
        header = self._as(RejectCode.NOT_AN_IMAGE)
        if isinstance(header, VideoHeader):
            raise RejectedError(RejectCode.NOT_AN_IMAGE, f"the file is a video ({header.media_type}), not an image")
        return header

    def video(self) -> VideoHeader:
        """Return the header of a video; raises as `header`, always with NOT_A_VIDEO for another file."""
        header = self._as(RejectCode.NOT_A_VIDEO)
        if isinstance(header, ImageHeader):
            raise RejectedError(RejectCode.NOT_A_VIDEO, f"the file is an image ({header.media_type}), not a video")
        return header

    def _as(self, code: RejectCode) -> ImageHeader | VideoHeader:
        try:
            return self.header()
        except RejectedError as rejected:
            if rejected.code not in {RejectCode.NOT_AN_IMAGE, RejectCode.NOT_A_VIDEO}:
                raise
            raise RejectedError(code, rejected.reason) from None

    def _begin(self) -> "StreamReader[ImageHeader | VideoHeader]":
        head = bytes(self._head)
        self._reader = StreamReader(_parser_of(format_of(head)))
        self._reader.feed(head)
        return self._reader


def probe_of(data: bytes) -> MediaProbe:
    """Return the probe of a whole file."""
    probe = MediaProbe()
    probe.feed(data)
    return probe


def image_header_of(data: bytes) -> ImageHeader:
    """Return the header of a whole image; raises as `MediaProbe.image`."""
    return probe_of(data).image()


def image_header(data: bytes) -> ImageHeader | None:
    """Return the header of a whole image, or None where it is not one that is taken."""
    try:
        return image_header_of(data)
    except RejectedError:
        return None


def _parser_of(file_format: Format) -> "Parser[ImageHeader | VideoHeader]":
    match file_format.family:
        case Family.JPEG:
            return jpeg()
        case Family.PNG:
            return png()
        case Family.WEBP:
            return webp()
        case Family.HEIF:
            return heif()
        case Family.MOVIE:
            return movie(file_format.media_type or "", file_format.name)
        case _:
            return _refuse(file_format)


def _refuse(file_format: Format) -> "Parser[ImageHeader | VideoHeader]":
    yield Skip(0)
    if file_format.family is Family.UNKNOWN:
        raise RejectedError(RejectCode.NOT_AN_IMAGE, f"the file is not a {TAKEN}")
    code = RejectCode.NOT_A_VIDEO if file_format.is_video else RejectCode.NOT_AN_IMAGE
    raise RejectedError(code, f"the file is not taken: {file_format.name}; taken are {TAKEN}")
