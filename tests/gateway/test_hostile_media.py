"""Media bombs: small files that would be large, long or endless once somebody opens them."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

import psutil
import pytest
from PIL import Image

from headrace.schemas.limits import MIB
from tests.gateway.gateway_world import Gateway, picture, unharmed_by
from tests.waiting import until

pytestmark = pytest.mark.stack


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + kind + body + struct.pack("!I", zlib.crc32(kind + body))


def png(width: int, height: int, *more: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack("!IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = zlib.compress(bytes(min(width // 8 + 1, 4096)) * 64, 9)
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack("!I", len(body) + 8) + kind + body


def mvhd(timescale: int, duration: int) -> bytes:
    return box(b"mvhd", struct.pack("!IIIII", 0, 0, 0, timescale, duration) + bytes(80))


def tkhd(width: int, height: int) -> bytes:
    return box(b"tkhd", bytes(76) + struct.pack("!II", width << 16, height << 16))


def mp4(*moov: bytes, brand: bytes = b"isom") -> bytes:
    return box(b"ftyp", brand + bytes(4) + brand) + box(b"moov", b"".join(moov)) + box(b"mdat", bytes(16))


def jpeg_with_scans(count: int) -> bytes:
    body = picture()
    at = body.index(b"\xff\xda")
    return body[:at] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00" * count + body[at:]


def jpeg_with_exif(size_bytes: int) -> bytes:
    body = picture()
    segment = b"\xff\xe1" + struct.pack("!H", 65_535) + b"Exif\0\0" + bytes(65_527)
    return body[:2] + segment * (size_bytes // len(segment)) + body[2:]


def animated(frames: int) -> bytes:
    out = io.BytesIO()
    first = Image.new("RGB", (1, 1))
    rest = [Image.new("RGB", (1, 1), (number % 256, number // 256, 0)) for number in range(1, frames)]
    first.save(out, "WEBP", save_all=True, append_images=rest, duration=1)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../etc/passwd", bytes(10_000_000))
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        link = tarfile.TarInfo("/etc/passwd")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/shadow"
        file.addfile(link)
        device = tarfile.TarInfo("dev")
        device.type = tarfile.CHRTYPE
        file.addfile(device)
    return out.getvalue()


SVG = b'<?xml version="1.0"?><!DOCTYPE lolz [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;">]><svg>&b;</svg>'
TIFF_LOOP = b"II*\0\x08\0\0\0\x01\0\0\x01\x03\0\xff\xff\xff\x7f\0\0\0\0\x08\0\0\0"

# What is refused, and with which status.
REFUSED: dict[str, tuple[Callable[[], bytes], int]] = {
    "PNG of 19,000 by 19,000": (lambda: png(19_000, 19_000), 413),
    "PNG of 2^31 by 1": (lambda: png(2**31 - 1, 1), 413),
    "PNG of no width": (lambda: png(0, 5), 415),
    "GIF of many frames": (lambda: b"GIF89a\x01\x00\x01\x00\x80\x00\x00" + b"\x2c" * 100_000, 415),
    "GIF with a huge screen": (lambda: b"GIF89a\xff\xff\xff\xff\x80\x00\x00;", 415),
    "TIFF that claims gigabytes": (lambda: TIFF_LOOP, 415),
    "JPEG of 10,000 scans": (lambda: jpeg_with_scans(10_000), 422),
    "JPEG with 60 MB of EXIF, larger than a frame": (lambda: jpeg_with_exif(64 * MIB + 70_000), 413),
    "SVG": (lambda: SVG, 415),
    "FITS in gzip": (lambda: gzip.compress(b"SIMPLE  =                    T" + bytes(1_000_000)), 415),
    "GD": (lambda: b"\xff\xfe\xff\xff\xff\xff" + bytes(100), 415),
    "PSD": (lambda: b"8BPS\0\x01" + bytes(100), 415),
    "EPS": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", 415),
    "PDF": (lambda: b"%PDF-1.7\n", 415),
    "JPEG cut off in its head": (lambda: picture()[:100], 415),
    "MP4 without moov": (lambda: box(b"ftyp", b"isom\0\0\0\0isom") + box(b"mdat", bytes(1000)), 415),
    "MP4 cut off": (lambda: mp4(mvhd(1000, 1000), tkhd(64, 48))[:-10], 415),
    "MP4 of an absurd length": (lambda: mp4(mvhd(1, 1_000_000_000), box(b"trak", tkhd(64, 48))), 413),
    "MP4 of 16k by 16k": (lambda: mp4(mvhd(1000, 1000), box(b"trak", tkhd(16_384, 16_384))), 413),
    "MKV": (lambda: b"\x1a\x45\xdf\xa3" + bytes(100), 415),
    "HLS that names a file": (lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", 415),
    "HLS that joins files": (lambda: b"#EXTM3U\nconcat:http://127.0.0.1/a|file:///etc/passwd\n", 415),
    "AVI with a subfile": (lambda: b"RIFF\0\0\0\0AVI subfile,,start,0,end,0,,:/etc/passwd", 415),
    "WebP of 5,000 pictures": (lambda: animated(5_000), 422),
    "JPEG cut off in its data": (lambda: picture()[:-300], 415),
    "PNG with a text bomb": (
        lambda: png(8, 8, chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(50_000_000), 9))),
        415,
    ),
    "PNG with a colour profile bomb": (
        lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(50_000_000), 9))),
        415,
    ),
    "M4A": (lambda: mp4(mvhd(1000, 1000), brand=b"M4A "), 415),
    "ZIP": (zipped, 415),
    "tar with a link and a device": (tarred, 415),
}


def with_xmp() -> bytes:
    body = picture()
    xmp = b'http://ns.adobe.com/xap/1.0/\0<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'
    return body[:2] + b"\xff\xe1" + struct.pack("!H", len(xmp) + 2) + xmp + body[2:]


# What is an image all the same: it is taken, and whatever is odd about it has no effect.
TAKEN: dict[str, Callable[[], bytes]] = {
    "JPEG with a stray byte between its segments": lambda: picture()[:20] + b"\x0a" + picture()[20:],
    "JPEG with XMP that names a file": with_xmp,
    "JPEG with 6 MB of EXIF": lambda: jpeg_with_exif(6 * MIB),
}


@pytest.fixture(autouse=True)
def unharmed(gateway: Gateway) -> Iterator[None]:
    with unharmed_by(gateway):
        yield


@pytest.mark.parametrize("which", REFUSED)
def test_a_bomb_is_refused(gateway: Gateway, which: str) -> None:
    make, expected = REFUSED[which]
    with gateway.client() as client:
        answer = client.post("/ingest", files={"file": ("a.mp4", make(), "video/mp4")})
    assert answer.status_code == expected, answer.text
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("which", TAKEN)
def test_what_is_only_odd_does_no_harm(gateway: Gateway, which: str) -> None:
    with gateway.client() as client:
        answer = client.post("/ingest", files={"file": ("a.jpg", TAKEN[which]())})
    assert answer.status_code == 200, answer.text
    assert "root:" not in answer.text


def test_a_child_that_dies_takes_nobody_with_it(gateway: Gateway) -> None:
    def children() -> list[psutil.Process]:
        return [
            one
            for one in psutil.Process(gateway.process.process.pid).children(recursive=True)
            if not one.children() and "resource_tracker" not in " ".join(one.cmdline())
        ]

    for one in children():
        one.kill()
    with gateway.client() as client:
        until(
            lambda: client.post("/ingest", files={"file": ("a.jpg", picture())}).status_code == 200,
            60,
            "new children to look at files",
        )
    assert children()
