"""Small images and videos, and the boxes and chunks that they are made of."""

import io
import struct
from functools import cache
from typing import Any

import av
import cv2
import numpy as np
from PIL import Image

import headrace.runtime.pictures  # noqa: F401 - lets Pillow write HEIF
from headrace.schemas.media_probe import ImageHeader, MediaProbe, VideoHeader

WIDTH, HEIGHT = 66, 34
PIXELS = np.arange(WIDTH * HEIGHT * 3, dtype=np.uint32).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)


def encoded(kind: str, *options: int) -> bytes:
    good, data = cv2.imencode(kind, PIXELS, list(options))
    assert good
    return data.tobytes()


JPEG = encoded(".jpg")
PROGRESSIVE = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
PNG = encoded(".png")
WEBP_LOSSY = encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 50)
WEBP_LOSSLESS = encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101)


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)


def webp(*chunks: bytes) -> bytes:
    content = b"WEBP" + b"".join(chunks)
    return b"RIFF" + len(content).to_bytes(4, "little") + content


VP8X = webp_chunk(b"VP8X", b"\x10\x00\x00\x00" + (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little"))
WEBP_EXTENDED = webp(VP8X, webp_chunk(b"ICCP", b"abc"), WEBP_LOSSY[12:])
EXIF = b"\xff\xe1" + (0xFFFF).to_bytes(2, "big") + bytes(0xFFFD)


@cache
def mp4(*, header_first: bool = True, fragmented: bool = False) -> bytes:
    out = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov"} if fragmented else {}
    with av.open(out, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(PIXELS, format="bgr24")))
        container.mux(stream.encode())
    data = out.getvalue()
    if fragmented or not header_first:
        return data
    start = data.index(b"moov") - 4
    return data[: data.index(b"free") - 4] + data[start:] + data[data.index(b"free") - 4 : start]


def box(kind: bytes, content: bytes = b"", *, size: int | None = None) -> bytes:
    return struct.pack(">I4s", 8 + len(content) if size is None else size, kind) + content


def large_box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content


FTYP = box(b"ftyp", b"isom\x00\x00\x02\x00")
MVHD = box(b"mvhd", bytes(12) + struct.pack(">II", 1000, 2500) + bytes(80))
MVHD_64 = box(b"mvhd", b"\x01" + bytes(19) + struct.pack(">IQ", 1000, 2500) + bytes(80))
UNTURNED = (1, 0, 0, 0, 1, 0, 0, 0, 0)


def tkhd(width: int, height: int, matrix: tuple[int, ...] = UNTURNED) -> bytes:
    turned = b"".join(struct.pack(">i", number << 16) for number in matrix)
    return box(b"tkhd", bytes(40) + turned + struct.pack(">HHHH", width, 0, height, 0))


def track(width: int, height: int, *, handler: bytes = b"vide", matrix: tuple[int, ...] = UNTURNED) -> bytes:
    hdlr = box(b"hdlr", bytes(8) + handler + bytes(13))
    return box(b"trak", tkhd(width, height, matrix) + box(b"mdia", hdlr))


VIDEO = track(4, 2)
HEADER = VideoHeader(duration_us=2_500_000, width=4, height=2)


def probed(data: bytes, chunk_bytes: int = 1 << 20) -> ImageHeader | VideoHeader:
    probe = MediaProbe()
    for start in range(0, len(data), chunk_bytes):
        probe.feed(data[start : start + chunk_bytes])
    return probe.header()


def picture(form: str, *, size: tuple[int, int] = (64, 48), **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (200, 30, 30)).save(out, form, **options)
    return out.getvalue()


def meta(*properties: bytes, item: bytes = b"hvc1", more: bytes = b"") -> bytes:
    """One item with the properties, in their order."""
    infe = box(b"infe", b"\x02\x00\x00\x00\x00\x01\x00\x00" + item + b"\x00")
    indexes = bytes([len(properties), *range(1, len(properties) + 1)])
    ipma = box(b"ipma", bytes(4) + b"\x00\x00\x00\x01\x00\x01" + indexes)
    return box(
        b"meta",
        bytes(4)
        + box(b"pitm", b"\x00\x00\x00\x00\x00\x01")
        + box(b"iinf", b"\x00\x00\x00\x00\x00\x01" + infe)
        + more
        + box(b"iprp", box(b"ipco", b"".join(properties)) + ipma),
    )


HEIC = box(b"ftyp", b"heic\x00\x00\x00\x00mif1heic")
ISPE = box(b"ispe", bytes(4) + struct.pack(">II", 40, 30))
