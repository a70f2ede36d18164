"""Bodies of any size at next to no cost: the beginning of a real image or video, a name that is unique, and filling."""

import struct
from dataclasses import dataclass
from functools import cache
from zlib import crc32

WIDTH, HEIGHT = 64, 48
DURATION_MS = 1500

_JPEG_HEAD = (
    b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
    b"\xff\xc0\x00\x0b\x08" + struct.pack(">HH", HEIGHT, WIDTH) + b"\x01\x01\x11\x00"
)
_PNG_CHUNK = b"IHDR" + struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d" + _PNG_CHUNK + struct.pack(">I", crc32(_PNG_CHUNK))
_WEBP_HEAD = b"RIFF\xff\xff\xff\x7fWEBPVP8L\x00\x00\xff\x7f\x2f" + struct.pack("<I", WIDTH - 1 | (HEIGHT - 1) << 14)
_FILLING_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Form:
    """What a body begins with, and what it is."""

    media_type: str
    head: bytes


IMAGES = (Form("image/jpeg", _JPEG_HEAD), Form("image/png", _PNG_HEAD), Form("image/webp", _WEBP_HEAD))


def image(form: Form, name: bytes, size_bytes: int) -> bytes:
    """Return an image of which only the header says anything; its name fits in, whatever its size."""
    return form.head + filling(name, max(size_bytes - len(form.head), len(name), 30))


def video(name: bytes, size_bytes: int) -> bytes:
    """Return an MP4 file whose media data is a name and filling; the movie header stands before it."""
    head = _box(b"ftyp", b"isom\x00\x00\x02\x00isommp42") + _box(b"moov", _box(b"mvhd", _movie_header()))
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
