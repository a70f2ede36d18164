"""Bodies of any size at next to no cost: the beginning of a real image or video, a name that is unique, and filling."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from zlib import crc32

WIDTH, HEIGHT = 64, 48
DURATION_MS = 1500

_JPEG_HEAD = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", HEIGHT, WIDTH) + b"\x01\x01\x11\x00"
    b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
)
_JPEG_END = b"\xff\xd9"
_FILLING_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Form:
    """A kind of image, and how it is made of its filling."""

    media_type: str
    make: Callable[[bytes], bytes]


def _jpeg(content: bytes) -> bytes:
    return _JPEG_HEAD + content + _JPEG_END


def _png(content: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", content) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _webp(content: bytes) -> bytes:
    pixels = b"\x2f" + struct.pack("<I", WIDTH - 1 | (HEIGHT - 1) << 14) + content
    chunk = b"VP8L" + struct.pack("<I", len(pixels)) + pixels + bytes(len(pixels) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc32(kind + content))


IMAGES = (Form("image/jpeg", _jpeg), Form("image/png", _png), Form("image/webp", _webp))


def image(form: Form, name: bytes, size_bytes: int) -> bytes:
    """Return an image that is whole but has no pixels to decode; its name fits in, whatever its size."""
    added_bytes = len(form.make(b""))
    # A marker in the filling would end a JPEG, or begin one of its many scans.
    content = filling(name, max(size_bytes - added_bytes, len(name), 30)).replace(b"\xff", b"\xfe")
    return form.make(content[:-1] if form is IMAGES[2] and len(content) % 2 == 0 else content)


def video(name: bytes, size_bytes: int) -> bytes:
    """Return an MP4 file whose media data is a name and filling; the movie header stands before it."""
    track = _box(b"trak", _box(b"tkhd", bytes(76) + struct.pack(">II", WIDTH << 16, HEIGHT << 16)))
    head = _box(b"ftyp", b"isom\x00\x00\x02\x00isommp42") + _box(b"moov", _box(b"mvhd", _movie_header()) + track)
    return head + _box(b"mdat", filling(name, max(size_bytes - len(head) - 8, len(name))))


def filling(name: bytes, size_bytes: int) -> bytes:
    """Return so many bytes that begin with a name."""
    block = _block()
    repeats = max(0, size_bytes - len(name)) // len(block) + 1
    return (name + block * repeats)[:size_bytes]


@cache
def _block() -> bytes:
    # Noise that repeats only after a mebibyte, so that a part in a wrong place gives another digest.
    return b"".join(
        struct.pack(">Q", number * 0x9E3779B97F4A7C15 & (1 << 64) - 1) for number in range(_FILLING_BYTES // 8)
    )


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + kind + content


def _movie_header() -> bytes:
    return b"\x00" * 12 + struct.pack(">II", 1000, DURATION_MS) + b"\x00\x01\x00\x00" + b"\x00" * 76
