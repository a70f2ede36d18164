"""The headers are compared with what OpenCV and FFmpeg make; then everything that can be broken in them is."""

import io
import struct
from functools import cache

import av
import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.schemas.media_probe import ImageHeader, VideoHeader, has_more_chunks, image_header, video_header

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
WEBP_EXTENDED = (
    b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00\x10\x00\x00\x00"
    + (WIDTH - 1).to_bytes(3, "little")
    + (HEIGHT - 1).to_bytes(3, "little")
)
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


SAID = VideoHeader(duration_us=2_500_000)
SAID_WITH_SIZE = VideoHeader(duration_us=2_500_000, width=4, height=2)


def track(width: int, height: int) -> bytes:
    return box(b"trak", box(b"tkhd", bytes(76) + struct.pack(">HHHH", width, 0, height, 0)))


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (JPEG, "image/jpeg"),
        (PROGRESSIVE, "image/jpeg"),
        (JPEG[:2] + EXIF * 900 + JPEG[2:], "image/jpeg"),
        (JPEG[:2] + b"\xff\x01\xff\xff\xff" + JPEG[2:], "image/jpeg"),
        (PNG, "image/png"),
        (WEBP_LOSSY, "image/webp"),
        (WEBP_LOSSLESS, "image/webp"),
        (WEBP_EXTENDED, "image/webp"),
    ],
    ids=["jpeg", "progressive", "60 MB of EXIF", "padding", "png", "webp lossy", "webp lossless", "webp extended"],
)
def test_an_image_says_its_type_and_size(data: bytes, media_type: str):
    assert image_header(data) == ImageHeader(media_type, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a" + bytes(100),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\x7fELF" + bytes(100),
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8" + EXIF,
        b"\xff\xd8" + EXIF * 5000,
        b"\xff\xd8" + b"\xff" * 5000,
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x22\x00",
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x00\x00\x42\x03",
        b"\xff\xd8\x00\xc0",
        PNG[:8],
        PNG[:8] + bytes(16),
        PNG[:20],
        PNG[:16] + bytes(8),
        WEBP_LOSSY[:20],
        b"RIFF\x00\x00\x00\x00WEBPVP9 " + bytes(30),
        b"RIFF\x00\x00\x00\x00WEBPVP8L" + bytes(30),
        b"RIFF\x00\x00\x00\x00WEBPVP8 " + bytes(30),
        b"RIFF\x00\x00\x00\x00WAVE" + bytes(30),
    ],
)
def test_what_is_no_image_has_no_header(data: bytes):
    assert image_header(data) is None


@pytest.mark.parametrize("header_first", [True, False])
def test_a_video_says_its_duration_and_size(header_first: bool):
    data = mp4(header_first=header_first)
    assert video_header(data, len(data)) == VideoHeader("video/mp4", 500_000, WIDTH, HEIGHT)


def test_a_fragmented_video_does_not_say_its_duration():
    data = mp4(fragmented=True)
    assert video_header(data, len(data)) == VideoHeader("video/mp4", None, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (FTYP + box(b"moov", MVHD), SAID),
        (FTYP + box(b"moov", MVHD_64), SAID),
        (FTYP + large_box(b"mdat", bytes(9)) + box(b"moov", MVHD), SAID),
        (FTYP + box(b"moov", MVHD) + bytes(5), SAID),
        (FTYP + box(b"moov", MVHD) + bytes(50), SAID),
        (FTYP + box(b"moov", MVHD + MVHD) + box(b"moov"), SAID),
        (FTYP + box(b"moov", MVHD, size=0), SAID),
        (FTYP + box(b"moov", box(b"mvhd", bytes(100))), VideoHeader()),
        (FTYP + box(b"moov", box(b"mvhd", b"\x00")), VideoHeader()),
        (FTYP + box(b"moov", box(b"mvhd", bytes(12) + b"\x00\x00\x03\xe8" + b"\xff" * 4)), VideoHeader()),
        (FTYP + box(b"moov", MVHD + track(0, 0) + track(4, 2) + track(8, 8)), SAID_WITH_SIZE),
        (FTYP + box(b"moov", MVHD + box(b"trak", box(b"edts")) + box(b"trak", box(b"tkhd"))), SAID),
        (FTYP + box(b"moov", MVHD + track(0, 0) * 64 + track(4, 2)), SAID),
    ],
)
def test_an_mp4_says_what_its_header_says(data: bytes, header: VideoHeader):
    assert video_header(data, len(data)) == header


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        FTYP,
        FTYP[:12],
        MVHD,
        box(b"moov", MVHD) + FTYP,
        FTYP + box(b"moov"),
        FTYP + box(b"moov", MVHD, size=5000),
        FTYP + box(b"mdat", bytes(100)),
        FTYP + box(b"moov", MVHD) + box(b"mdat", bytes(100), size=5000),
        FTYP + box(b"mdat", size=3) + box(b"moov", MVHD),
        FTYP + box(b"mdat", size=0) + box(b"moov", MVHD),
        FTYP + box(b"free") * 5000 + box(b"moov", MVHD),
        FTYP + struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1),
        FTYP + struct.pack(">I4sQ", 1, b"mdat", 3),
    ],
)
def test_what_is_no_whole_mp4_has_no_header(data: bytes):
    assert video_header(data, len(data)) is None


def test_of_a_large_file_the_beginning_is_enough():
    whole = FTYP + box(b"mdat", bytes(1000)) + box(b"moov", MVHD)
    assert video_header(whole[:200], len(whole)) == VideoHeader()
    cut_in_the_header = FTYP + box(b"moov", MVHD + track(4, 2))
    assert video_header(cut_in_the_header[:50], len(cut_in_the_header)) == VideoHeader()
    assert video_header(FTYP + b"\x00", 5000) == VideoHeader()
    assert video_header(whole[:200], 300) is None, "the media data would be cut short"
    assert video_header((FTYP + box(b"mdat", size=3) + bytes(200)), 5000) is None
    assert video_header(b"\x00\x00", 5000) is None


@given(st.binary(max_size=200))
def test_random_bytes_never_raise(data: bytes):
    image_header(data)
    video_header(data, len(data))
    video_header(data, 1 << 31)


VALID = [JPEG, PROGRESSIVE, PNG, WEBP_LOSSY, WEBP_LOSSLESS, WEBP_EXTENDED, mp4(), mp4(header_first=False)]


@given(st.sampled_from(VALID), st.data())
def test_mutations_of_valid_files_never_raise(valid: bytes, data: st.DataObject):
    broken = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(valid) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    broken = broken[: data.draw(st.integers(0, len(broken)))]
    header = image_header(bytes(broken))
    assert header is None or (header.width > 0 and header.height > 0)
    video_header(bytes(broken), len(broken))
    video_header(bytes(broken), len(valid))


@given(st.lists(st.tuples(st.sampled_from([b"ftyp", b"moov", b"mdat", b"free"]), st.integers(0, 40)), max_size=12))
@example([(b"ftyp", 16), (b"moov", 0)])
def test_any_chain_of_boxes_ends(chain: list[tuple[bytes, int]]):
    data = b"".join(box(kind, bytes(size), size=size) for kind, size in chain)
    video_header(data, len(data))


_PNG = b"\x89PNG\r\n\x1a\n"
_WEBP = b"RIFF\0\0\0\0WEBP"


@pytest.mark.parametrize(
    ("data", "chunks"),
    [
        (b"\xff\xd8" + b"\xff\xfe\x00\x03a" * 9 + b"\xff\xda" + b"\xff\xfe\x00\x02" * 9, 9),
        (b"\xff\xd8" + b"\xff\xd0" * 9 + b"\xff\xda\0\0", 9),
        (b"\xff\xd8" + b"\xff" * 9, 6),
        (b"\xff\xd8" + b"\xff\xd0" + b"\0" * 9, 1),
        (_PNG + b"\0\0\0\x01tEXta\0\0\0\0" * 9 + b"\0\0\0\0IDAT\0\0\0\0" * 9, 9),
        (_PNG + b"\0\0\0\x01tEXta\0\0\0\0" * 9, 9),
        (_WEBP + b"ICCP\x01\0\0\0a\0" * 9, 9),
    ],
)
def test_chunks_before_the_pixels_are_counted(data: bytes, chunks: int) -> None:
    assert not has_more_chunks(data, chunks)
    assert has_more_chunks(data, chunks - 1)
