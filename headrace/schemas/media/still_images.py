"""Parsers of JPEG (ITU T.81), PNG 1.2 and WebP (RFC 9649).

They accept what decoders accept, such as stray bytes between the segments of a JPEG, and refuse a file that ends before
its picture does: decoders refuse that too. Pixels are not decoded.
"""

import struct
from typing import NoReturn
from zlib import crc32

from headrace.schemas.limits import JPEG_SCANS_MAX
from headrace.schemas.media.headers import ImageHeader
from headrace.schemas.media.reading import Crc, EndOfFileError, Parser, Skip, Take, Until
from headrace.schemas.reject import RejectCode, RejectedError

# The longest chain seen in real files is an ICC profile or EXIF of 60 MB in segments of 64 KB: about 1,000. Each costs
# a decoder time.
METADATA_CHUNKS_MAX = 4096
CHUNKS_MAX = 65_536  # a PNG of 64 MiB in chunks of 1 KiB

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # those three are tables, not frames
_DECODED_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # neither lossless nor hierarchical
_STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD8)})  # markers that have no length after them
_START, _END, _SCAN, _JPEG_LS = 0xD8, 0xD9, 0xDA, 0xF7

_PNG_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}
_PNG_CHECKED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})  # decoders only warn about the others


def jpeg() -> Parser[ImageHeader]:
    """Parse a JPEG, or the first picture of a file of several (MPO)."""
    try:
        yield Skip(2)
        size = yield from _jpeg_segments()
    except EndOfFileError:
        _refuse("the JPEG ends in its header")
    try:
        scans = yield Until(b"\xff\xd9", counted=b"\xff\xda")
    except EndOfFileError:
        _refuse("the JPEG ends too early: it has no end marker")
    if scans >= JPEG_SCANS_MAX:
        raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"the JPEG has more than {JPEG_SCANS_MAX} scans")
    return ImageHeader("image/jpeg", *size)


def _jpeg_segments() -> Parser[tuple[int, int]]:
    """Parse the segments up to the first scan, and return the size that the frame header declares."""
    size: tuple[int, int] | None = None
    for _ in range(METADATA_CHUNKS_MAX):
        marker = yield from _jpeg_marker()
        if marker in _STANDALONE:
            continue
        if marker in {_START, _END}:
            _refuse("the JPEG has no picture")
        length = int.from_bytes((yield Take(2)), "big") - 2
        if length < 0:
            _refuse("a segment of the JPEG is malformed")
        if marker in _START_OF_FRAME or marker == _JPEG_LS:
            size = _jpeg_size(marker, (yield Take(length)))
            continue
        yield Skip(length)
        if marker == _SCAN:
            if size is None:
                _refuse("the JPEG has no frame header")
            return size
    _too_many("JPEG")


def _jpeg_marker() -> Parser[int]:
    """Return the next marker, whatever stray bytes precede it."""
    yield Until(b"\xff")
    for _ in range(METADATA_CHUNKS_MAX):
        marker: int = (yield Take(1))[0]
        if marker != 0xFF:
            return marker
    _too_many("JPEG")


def png() -> Parser[ImageHeader]:
    """Parse a PNG or APNG."""
    size: tuple[int, int] | None = None
    chunks, has_pixels = 0, False
    try:
        yield Skip(8)
        while chunks < CHUNKS_MAX and (has_pixels or chunks <= METADATA_CHUNKS_MAX):
            chunks += 1
            head = yield Take(8)
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if size is None:
                size = yield from _png_header(length, kind)
                continue
            has_pixels = has_pixels or kind == b"IDAT"
            if kind in _PNG_CHECKED:
                computed = yield Crc(length, crc32(kind))
                if (yield Take(4)) != struct.pack(">I", computed):
                    _refuse(f"the PNG is damaged: the checksum of {kind.decode()} is wrong")
            else:
                yield Skip(length + 4)
            if kind == b"IEND":
                if not has_pixels:
                    _refuse("the PNG has no pixels")
                return ImageHeader("image/png", *size)
    except EndOfFileError:
        _refuse("the PNG ends too early: it has no end chunk" if size else "the PNG ends in its header")
    _too_many("PNG")


def webp() -> Parser[ImageHeader]:
    """Parse a WebP, also an animated one, whose size is that of its canvas."""
    size: tuple[int, int] | None = None
    has_pixels = False
    try:
        left = int.from_bytes((yield Take(12))[4:8], "little") - 4
        for _ in range(METADATA_CHUNKS_MAX):
            if left < 8:
                break
            head = yield Take(8)
            kind, length = head[:4], int.from_bytes(head[4:], "little")
            left -= 8
            if length > left:
                _refuse("a chunk of the WebP is longer than the file says")
            padded = min(length + length % 2, left)
            left -= padded
            if size is None:
                seen = yield Take(min(padded, 10))
                padded -= len(seen)
                size = _webp_size(kind, seen)
            has_pixels = has_pixels or kind in {b"VP8 ", b"VP8L", b"ANMF"}
            yield Skip(padded)
        else:
            _too_many("WebP")
    except EndOfFileError:
        _refuse("the WebP ends too early")
    if size is None or not has_pixels:
        _refuse("the WebP has no picture")
    return ImageHeader("image/webp", *size)


def _jpeg_size(marker: int, frame: bytes) -> tuple[int, int]:
    if marker == _JPEG_LS:
        _refuse("a JPEG-LS image is not taken")
    if len(frame) < 6:
        _refuse("the frame header of the JPEG is malformed")
    precision, height, width = struct.unpack_from(">BHH", frame)
    if marker not in _DECODED_FRAMES or precision != 8:
        _refuse(f"a JPEG of {precision} bits in coding process {marker & 0x0F} is not taken")
    if not width or not height:
        _refuse(f"the JPEG declares {width} by {height} pixels")
    return width, height


def _png_header(length: int, kind: bytes) -> Parser[tuple[int, int]]:
    if kind == b"CgBI":
        _refuse("a PNG in Apple's own form (CgBI) is not taken")
    if kind != b"IHDR" or length != 13:
        _refuse("the PNG has no header chunk")
    data = yield Take(17)
    width, height, depth, colour = struct.unpack_from(">IIBB", data)
    if not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        _refuse(f"the PNG declares {width} by {height} pixels")
    if depth not in _PNG_DEPTHS.get(colour, ()):
        _refuse(f"the PNG declares {depth} bits in colour type {colour}")
    return width, height


def _webp_size(kind: bytes, data: bytes) -> tuple[int, int]:
    size = 0, 0
    if kind == b"VP8X" and len(data) >= 10:
        size = int.from_bytes(data[4:7], "little") + 1, int.from_bytes(data[7:10], "little") + 1
    elif kind == b"VP8L" and len(data) >= 5 and data[0] == 0x2F:
        bits = int.from_bytes(data[1:5], "little")
        size = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and data[3:6] == b"\x9d\x01\x2a":
        size = int.from_bytes(data[6:8], "little") & 0x3FFF, int.from_bytes(data[8:10], "little") & 0x3FFF
    if not all(size):
        _refuse("the WebP has no picture")
    return size


def _refuse(reason: str) -> NoReturn:
    raise RejectedError(RejectCode.NOT_AN_IMAGE, reason)


def _too_many(name: str) -> NoReturn:
    raise RejectedError(RejectCode.FIELD_OUT_OF_RANGE, f"the {name} has too many segments or chunks")
