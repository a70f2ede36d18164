"""Types, sizes and durations of images and videos, read from their headers alone.

Nothing is decoded and only a few bytes are allocated. Each function accepts hostile bytes, takes a bounded number of
steps, never raises, and returns None for a format that cannot be ingested. Sources:
ITU T.81 (JPEG), PNG 1.2, RFC 9649 (WebP), ISO/IEC 14496-12 (MP4).
"""

from collections.abc import Iterator
from dataclasses import dataclass

# The longest chain seen in real files is an ICC profile or EXIF of 60 MB in segments of 64 KB: about 1,000.
_JPEG_STEPS_MAX = 4096
_BOXES_MAX = 4096
_TRACKS_MAX = 64
_TRACK_HEADER_BYTES_MIN = 84

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are tables, not frames
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers that have no length after them
_NO_FRAME_AFTER = frozenset({0xD8, 0xD9, 0xDA})  # start and end of image, start of scan: the frame had to come before

_Box = tuple[bytes, int, int]  # type, where its content begins, where it ends


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """The header of an image; width and height are pixels, never 0."""

    media_type: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """The header of an MP4; a field is None if it is not declared in the bytes that were read."""

    media_type: str = "video/mp4"
    duration_us: int | None = None
    width: int | None = None
    height: int | None = None


def image_header(data: bytes) -> ImageHeader | None:
    """Return the header of a JPEG, PNG or WebP, else None; `data` may be only the file's beginning."""
    if data[:2] == b"\xff\xd8":
        media_type, size = "image/jpeg", _jpeg_size(data)
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        media_type, size = "image/png", _png_size(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        media_type, size = "image/webp", _webp_size(data)
    else:
        return None
    return ImageHeader(media_type, *size) if size and all(size) else None


def has_more_chunks(data: bytes, chunks_max: int) -> bool:
    """Return whether more than `chunks_max` segments or chunks precede the pixels of a JPEG, PNG or WebP."""
    if data[:2] == b"\xff\xd8":
        step, position = _jpeg_step, 2
    elif data[:8] == b"\x89PNG\r\n\x1a\n":
        step, position = _png_step, 8
    else:
        step, position = _webp_step, 12
    for _ in range(chunks_max + 1):
        size = step(data, position)
        if not size:
            return False
        position += size
    return True


def video_header(data: bytes, size_bytes: int) -> VideoHeader | None:
    """Return the header of an MP4 file of `size_bytes`, else None; `data` is the file or its beginning.

    The file must begin with an `ftyp` box and have a `moov` box with a movie header. Truncated media data is refused;
    padding after the last box is accepted. If `data` ends before `moov`, a well-formed chain of boxes up to there is
    accepted, and only the type is known.
    """
    moov: VideoHeader | None = None
    position = 0
    for kind, start, end in _boxes(data, 0, size_bytes):
        if (position == 0) != (kind == b"ftyp") or (end > size_bytes and (kind == b"mdat" or moov is None)):
            return None
        if kind == b"moov" and moov is None:
            moov = _movie(data, start, end)
            if moov is None:
                return None
        position = end
    behind = len(data) < size_bytes and position > len(data) - 8
    return moov or (VideoHeader() if position and behind and position < size_bytes else None)


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    position = 2
    for _ in range(_JPEG_STEPS_MAX):
        if data[position : position + 1] != b"\xff" or position + 1 >= len(data):
            return None
        marker = data[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
        elif marker in _STANDALONE:
            position += 2
        elif marker in _NO_FRAME_AFTER:
            return None
        elif marker in _START_OF_FRAME:
            whole = position + 9 <= len(data)
            return (_number(data, position + 7, 2), _number(data, position + 5, 2)) if whole else None
        else:
            position += 2 + _number(data, position + 2, 2)
    return None


def _jpeg_step(data: bytes, position: int) -> int:
    """Return the size of a segment; 0 at the first scan, and where there is none."""
    if data[position : position + 1] != b"\xff" or position + 4 > len(data):
        return 0
    marker = data[position + 1]
    if marker == 0xFF:
        return 1
    if marker in _STANDALONE:
        return 2
    return 0 if marker in _NO_FRAME_AFTER else 2 + _number(data, position + 2, 2)


def _png_step(data: bytes, position: int) -> int:
    """Return the size of a chunk; 0 at the pixels, and where there is none."""
    is_pixels = data[position + 4 : position + 8] == b"IDAT"
    return 0 if is_pixels or position + 8 > len(data) else 12 + _number(data, position, 4)


def _webp_step(data: bytes, position: int) -> int:
    """Return the size of a chunk of RIFF, which is padded to an even number of bytes; 0 where there is none."""
    if position + 8 > len(data):
        return 0
    size = int.from_bytes(data[position + 4 : position + 8], "little")
    return 8 + size + size % 2


def _png_size(data: bytes) -> tuple[int, int] | None:
    if data[8:16] != b"\x00\x00\x00\x0dIHDR" or len(data) < 24:
        return None
    return _number(data, 16, 4), _number(data, 20, 4)


def _webp_size(data: bytes) -> tuple[int, int] | None:
    if len(data) < 30:
        return None
    match data[12:16]:
        case b"VP8X":
            return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        case b"VP8L" if data[20] == 0x2F:
            bits = int.from_bytes(data[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _movie(data: bytes, start: int, end: int) -> VideoHeader | None:
    """Read the movie header and the first video track."""
    duration_us: int | None = None
    size: tuple[int, int] | None = None
    seen = False
    tracks = 0
    for kind, inner, inner_end in _boxes(data, start, end):
        if kind == b"mvhd" and not seen:
            seen = True
            duration_us = _duration_us(data, inner, inner_end)
        elif kind == b"trak" and size is None and tracks < _TRACKS_MAX:
            tracks += 1
            size = _track_size(data, inner, inner_end)
    if not seen and end <= len(data):
        return None
    width, height = size or (None, None)
    return VideoHeader(duration_us=duration_us, width=width, height=height)


def _duration_us(data: bytes, start: int, end: int) -> int | None:
    # Version 1 has 64-bit times and duration; all ones means that the duration is not known.
    width = 8 if data[start : start + 1] == b"\x01" else 4
    if start + 8 + 3 * width > min(end, len(data)):
        return None
    per_second = _number(data, start + 4 + 2 * width, 4)
    duration = _number(data, start + 8 + 2 * width, width)
    if not per_second or not duration or duration == (1 << 8 * width) - 1:
        return None
    return duration * 1_000_000 // per_second


def _track_size(data: bytes, start: int, end: int) -> tuple[int, int] | None:
    for kind, inner, inner_end in _boxes(data, start, end):
        if kind == b"tkhd":  # it ends with width and height, each 16 bits and 16 bits of fraction
            size = _number(data, inner_end - 8, 2), _number(data, inner_end - 4, 2)
            return size if inner + _TRACK_HEADER_BYTES_MIN <= inner_end <= len(data) and all(size) else None
    return None


def _boxes(data: bytes, start: int, end: int) -> Iterator[_Box]:
    """Yield the boxes that begin in `data`, up to the first malformed one. A box may end beyond `end`."""
    for _ in range(_BOXES_MAX):
        if start + 8 > min(len(data), end):
            return
        size, head = _number(data, start, 4), 8
        if size == 1:
            size, head = _number(data, start + 8, 8), 16
        elif size == 0:  # to the end of what encloses it
            size = end - start
        if size < head:
            return
        yield data[start + 4 : start + 8], start + head, start + size
        start += size


def _number(data: bytes, start: int, width: int) -> int:
    return int.from_bytes(data[start : start + width], "big")
