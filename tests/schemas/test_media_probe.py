"""The headers are compared with what OpenCV and FFmpeg make; then everything that can be broken in them is."""

import struct
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import headrace.runtime.pictures  # noqa: F401 - lets Pillow write HEIF
from headrace.schemas.media_probe import ImageHeader, MediaProbe, VideoHeader, image_header
from headrace.schemas.reject import RejectCode, RejectedError
from tests.schemas.media_samples import (
    EXIF,
    FTYP,
    HEADER,
    HEIC,
    HEIGHT,
    ISPE,
    JPEG,
    MVHD,
    MVHD_64,
    PNG,
    PROGRESSIVE,
    VIDEO,
    VP8X,
    WEBP_EXTENDED,
    WEBP_LOSSLESS,
    WEBP_LOSSY,
    WIDTH,
    box,
    large_box,
    meta,
    mp4,
    picture,
    probed,
    tkhd,
    track,
    webp,
    webp_chunk,
)


@pytest.mark.parametrize(
    ("data", "media_type"),
    [
        (JPEG, "image/jpeg"),
        (PROGRESSIVE, "image/jpeg"),
        (JPEG[:2] + EXIF * 900 + JPEG[2:], "image/jpeg"),
        (JPEG[:2] + b"\xff\x01\xff\xff\xff" + JPEG[2:], "image/jpeg"),
        (JPEG[:20] + b"\x0a" + JPEG[20:], "image/jpeg"),
        (JPEG[:20] + b"junk\xff\x00" + JPEG[20:], "image/jpeg"),
        (JPEG + b"a motion photo's video", "image/jpeg"),
        (PNG, "image/png"),
        (WEBP_LOSSY, "image/webp"),
        (WEBP_LOSSLESS, "image/webp"),
        (WEBP_EXTENDED, "image/webp"),
        (WEBP_LOSSY + b"behind", "image/webp"),
    ],
    ids=(
        *("jpeg", "progressive", "60 MB of EXIF", "padding", "a stray byte", "stray bytes", "bytes behind"),
        *("png", "webp lossy", "webp lossless", "webp extended", "webp with bytes behind"),
    ),
)
def test_an_image_declares_its_type_and_size(data: bytes, media_type: str):
    assert probed(data) == ImageHeader(media_type, WIDTH, HEIGHT)
    assert image_header(data) == ImageHeader(media_type, WIDTH, HEIGHT)
    if len(data) < 10_000:
        assert probed(data, 1) == probed(data, 7) == ImageHeader(media_type, WIDTH, HEIGHT)


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
def test_a_heif_is_an_image_of_its_whole_size(form: str):
    data = picture(form)
    media_type = {"AVIF": "image/avif", "HEIF": "image/heic"}[form]
    assert probed(data) == probed(data, 11) == ImageHeader(media_type, 64, 48)
    with pytest.raises(RejectedError, match="ends too early"):
        probed(data[:-20])


@pytest.mark.parametrize(
    ("properties", "orientation"),
    [
        ((), 1),
        ((box(b"irot", b"\x01"),), 8),
        ((box(b"irot", b"\x02"),), 3),
        ((box(b"irot", b"\x03"),), 6),
        ((box(b"imir", b"\x00"),), 4),
        ((box(b"imir", b"\x01"),), 2),
        ((box(b"irot", b"\x01"), box(b"imir", b"\x01")), 7),
        ((box(b"irot", b"\x03"), box(b"imir", b"\x01")), 5),
    ],
)
def test_a_heif_declares_its_orientation(properties: tuple[bytes, ...], orientation: int):
    header = probed(HEIC + meta(ISPE, *properties) + box(b"mdat", bytes(9)))
    assert isinstance(header, ImageHeader)
    assert (header, header.orientation) == (ImageHeader("image/heic", 40, 30), orientation)


def test_a_heif_may_have_its_header_behind_its_data_and_be_cropped():
    clap = box(b"clap", struct.pack(">IIIIIIII", 39, 1, 29, 1, 0, 1, 0, 1))
    header = probed(HEIC + box(b"mdat", bytes(5000)) + meta(ISPE, clap))
    assert header == ImageHeader("image/heic", 39, 29)


def test_a_heif_of_tiles_is_of_the_type_of_its_tiles():
    tile = box(b"infe", b"\x02\x00\x00\x00\x00\x02\x00\x00av01\x00")
    iref = box(b"iref", bytes(4) + box(b"dimg", b"\x00\x01\x00\x01\x00\x02"))
    grid = meta(ISPE, item=b"grid", more=iref)
    whole = grid.replace(
        b"\x00\x01" + grid[grid.index(b"infe") - 4 :][:4], b"\x00\x02" + grid[grid.index(b"infe") - 4 :][:4]
    )
    start, end = whole.index(b"iinf") - 4, whole.index(b"iref") - 4
    iinf = box(b"iinf", whole[start + 8 : end] + tile)
    data = box(b"meta", whole[8:start] + iinf + whole[end:])
    assert probed(box(b"ftyp", b"mif1\x00\x00\x00\x00avif") + data) == ImageHeader("image/avif", 40, 30)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"GIF89a" + bytes(100), "GIF"),
        (b"BM" + bytes(12) + b"\x28\x00\x00\x00" + bytes(100), "BMP"),
        (b"II*\x00" + bytes(100), "TIFF"),
        (b"MM\x00*" + bytes(100), "TIFF"),
        (b"\xff\x0a" + bytes(100), "JPEG XL"),
        (box(b"JXL ", b"\r\n\x87\n"), "JPEG XL"),
        (box(b"jP  ", b"\r\n\x87\n"), "JPEG 2000"),
        (box(b"ftyp", b"avis\x00\x00\x00\x00avif"), "AVIF image sequence"),
        (box(b"ftyp", b"hevc\x00\x00\x00\x00heic"), "HEIC image sequence"),
        (box(b"ftyp", b"msf1\x00\x00\x00\x00mif1"), "HEIF image sequence"),
        (box(b"ftyp", b"crx \x00\x00\x00\x00"), "Canon CR3"),
        (b"\x1aE\xdf\xa3\x93B\x82\x88webm" + bytes(100), "WebM"),
        (b"\x1aE\xdf\xa3\x93B\x82\x88matroska" + bytes(100), "Matroska"),
        (b"RIFF\x00\x00\x00\x00AVI " + bytes(100), "AVI"),
        (b"RIFF\x00\x00\x00\x00WAVE" + bytes(30), "WAV"),
        (b"%PDF-1.7\n", "PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\x04CgBI" + bytes(8), "CgBI"),
        (HEIC + meta(ISPE, item=b"jpeg"), "jpeg"),
        (b"\xff\xd8\xff\xf7\x00\x0b\x08\x00\x22\x00\x42\x01\x01\x11\x00", "JPEG-LS"),
    ],
)
def test_what_is_not_taken_is_refused_by_name(data: bytes, name: str):
    with pytest.raises(RejectedError, match=name):
        probed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x7fELF" + bytes(100),
        b"\xff\xd8",
        b"\xff\xd8\xff",
        b"\xff\xd8" + EXIF,
        b"\xff\xd8" + EXIF * 5000,
        b"\xff\xd8" + b"\xff" * 5000,
        b"\xff\xd8\xff\xd9",
        b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x22\x00",
        JPEG.replace(struct.pack(">HH", HEIGHT, WIDTH), bytes(4)),
        b"\xff\xd8\x00\xc0",
        JPEG[:-2],
        JPEG[:-300],
        PROGRESSIVE[:-300],
        PNG[:8],
        PNG[:8] + bytes(16),
        PNG[:20],
        PNG[:16] + bytes(8),
        PNG[:-12],
        PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:],
        WEBP_LOSSY[:20],
        WEBP_LOSSY[:-10],
        webp(VP8X),
        webp(webp_chunk(b"VP9 ", bytes(30))),
        webp(webp_chunk(b"VP8L", bytes(30))),
        webp(webp_chunk(b"VP8 ", bytes(30))),
        HEIC,
        HEIC + meta(item=b"hvc1"),
    ],
)
def test_what_is_no_whole_image_has_no_header(data: bytes):
    assert image_header(data) is None
    with pytest.raises(RejectedError):
        probed(data, 3 if len(data) < 10_000 else 65_536)


def test_an_image_of_too_many_scans_is_refused():
    at = JPEG.index(b"\xff\xda")
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    assert probed(JPEG[:at] + scan * 400 + JPEG[at:], 13)
    with pytest.raises(RejectedError, match="scans"):
        probed(JPEG[:at] + scan * 600 + JPEG[at:], 13)


@pytest.mark.parametrize("fragmented", [False, True])
@pytest.mark.parametrize("header_first", [True, False])
def test_a_video_declares_its_duration_size_codec_and_rate(header_first: bool, fragmented: bool):
    data = mp4(header_first=header_first, fragmented=fragmented)
    header = VideoHeader("video/mp4", 500_000, WIDTH, HEIGHT, 0, "avc1", 10.0)
    assert probed(data) == probed(data, 5) == header


@pytest.mark.parametrize(
    ("data", "header"),
    [
        (FTYP + box(b"moov", MVHD + VIDEO), HEADER),
        (FTYP + box(b"moov", MVHD_64 + VIDEO), HEADER),
        (FTYP + large_box(b"mdat", bytes(9)) + box(b"moov", MVHD + VIDEO), HEADER),
        (FTYP + box(b"mdat", bytes(30_000_000)) + box(b"moov", MVHD + VIDEO), HEADER),
        (FTYP + box(b"free") * 5000 + box(b"moov", MVHD + VIDEO), HEADER),
        (FTYP + box(b"moov", MVHD + VIDEO) + bytes(5), HEADER),
        (FTYP + box(b"moov", MVHD + VIDEO) + bytes(50), HEADER),
        (FTYP + box(b"moov", MVHD + VIDEO) + b"\x00\x00\x00\x03junk" + bytes(9), HEADER),
        (FTYP + box(b"moov", MVHD + MVHD + VIDEO), HEADER),
        (FTYP + box(b"moov", MVHD + VIDEO, size=0), HEADER),
        (FTYP + box(b"moov", box(b"mvhd", bytes(100)) + VIDEO), VideoHeader(width=4, height=2)),
        (FTYP + box(b"moov", MVHD + track(9, 9, handler=b"soun") + VIDEO + track(8, 8)), HEADER),
        (FTYP + box(b"moov", MVHD + box(b"trak", tkhd(4, 2))), HEADER),
        (box(b"ftyp", b"3gp4\x00\x00\x00\x00") + box(b"moov", MVHD + VIDEO), replace(HEADER, media_type="video/3gpp")),
        (box(b"ftyp", b"3g2a\x00\x00\x00\x00") + box(b"moov", MVHD + VIDEO), replace(HEADER, media_type="video/3gpp2")),
        (
            box(b"ftyp", b"qt  \x00\x00\x00\x00") + box(b"moov", MVHD + VIDEO),
            replace(HEADER, media_type="video/quicktime"),
        ),
        (box(b"moov", MVHD + VIDEO), replace(HEADER, media_type="video/quicktime")),
        (box(b"wide") + box(b"mdat", b"0") + box(b"moov", MVHD + VIDEO), replace(HEADER, media_type="video/quicktime")),
    ],
)
def test_a_video_declares_what_its_header_declares(data: bytes, header: VideoHeader):
    assert probed(data) == header


@pytest.mark.parametrize(
    ("matrix", "rotation"),
    [
        ((0, 1, 0, -1, 0, 0, 0, 0, 0), 90),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 0), 180),
        ((0, -1, 0, 1, 0, 0, 0, 0, 0), 270),
    ],
)
def test_a_video_declares_how_it_is_turned(matrix: tuple[int, ...], rotation: int):
    header = probed(FTYP + box(b"moov", MVHD + track(4, 2, matrix=matrix)))
    assert header == replace(HEADER, rotation=rotation)
    assert header.details["display_width"] == (4 if rotation == 180 else 2)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (FTYP, "no movie header"),
        (FTYP + box(b"moov"), "no movie header"),
        (FTYP + box(b"moov", MVHD + VIDEO, size=5000), "ends too early"),
        (FTYP + box(b"mdat", bytes(100)), "no movie header"),
        (FTYP + box(b"moov", MVHD + VIDEO) + box(b"mdat", bytes(100), size=5000), "ends too early"),
        (FTYP + box(b"mdat", size=3) + box(b"moov", MVHD), "malformed"),
        (FTYP + box(b"mdat", size=0) + box(b"moov", MVHD), "no movie header"),
        (FTYP + box(b"free") * 70_000 + box(b"moov", MVHD), "boxes"),
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 2**64 - 1), "ends too early"),
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 3), "malformed"),
        (FTYP + box(b"moov", MVHD), "no video track"),
        (
            box(b"ftyp", b"M4A \x00\x00\x00\x00") + box(b"moov", MVHD + track(0, 0, handler=b"soun")),
            "M4A.*no video track",
        ),
    ],
)
def test_what_is_no_whole_video_is_refused_for_that(data: bytes, reason: str):
    with pytest.raises(RejectedError, match=reason):
        probed(data)


@pytest.mark.parametrize("fragmented", [False, True])
@pytest.mark.parametrize("header_first", [True, False])
def test_a_video_that_was_cut_off_is_refused(header_first: bool, fragmented: bool):
    data = mp4(header_first=header_first, fragmented=fragmented)
    with pytest.raises(RejectedError, match=r"ends too early|no movie header"):
        probed(data[: len(data) * 2 // 3])


def test_fragments_count_for_the_duration_whatever_the_header_declares():
    trex = box(b"mvex", box(b"trex", bytes(4) + struct.pack(">IIIII", 1, 1, 1000, 0, 0)))
    mdhd = box(b"mdhd", bytes(12) + struct.pack(">II", 1000, 0) + bytes(4))
    hdlr = box(b"hdlr", bytes(8) + b"vide" + bytes(13))
    numbered = box(b"tkhd", bytes(12) + b"\x00\x00\x00\x01" + bytes(60) + struct.pack(">HHHH", 4, 0, 2, 0))
    movie = box(b"moov", MVHD + box(b"trak", numbered + box(b"mdia", mdhd + hdlr)) + trex)
    fragment = box(
        b"moof",
        box(b"traf", box(b"tfhd", bytes(4) + struct.pack(">I", 1)) + box(b"trun", bytes(4) + struct.pack(">I", 10))),
    )
    header = probed(FTYP + movie + (fragment + box(b"mdat", bytes(5))) * 6)
    assert isinstance(header, VideoHeader)
    assert (header.duration_us, header.frame_rate) == (60_000_000, 1.0)


@given(st.binary(max_size=200), st.sampled_from([b"", FTYP, HEIC, b"\xff\xd8\xff", PNG[:8], b"RIFF\xff\0\0\0WEBP"]))
def test_random_bytes_are_refused_or_have_a_header(data: bytes, head: bytes):
    probe = MediaProbe()
    probe.feed(head + data)
    with suppress(RejectedError):
        probe.header()


VALID = [JPEG, PROGRESSIVE, PNG, WEBP_LOSSY, WEBP_LOSSLESS, WEBP_EXTENDED, mp4(), mp4(header_first=False)]
VALID += [mp4(fragmented=True), picture("AVIF"), picture("HEIF")]


@given(st.sampled_from(VALID), st.data())
def test_mutations_of_valid_files_are_refused_or_have_a_header(valid: bytes, data: st.DataObject):
    broken = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(valid) - 1))
        broken[at] = data.draw(st.integers(0, 255))
    broken = broken[: data.draw(st.integers(0, len(broken)))]
    results = []
    for chunk_bytes in (1 << 20, data.draw(st.integers(1, 3000))):
        try:
            header: object = probed(bytes(broken), chunk_bytes)
        except RejectedError as rejected:
            header = rejected.reason
        results.append(header)
    assert results[0] == results[1], "what a file is depends on how it arrives"
    assert not isinstance(results[0], ImageHeader) or (results[0].width > 0 and results[0].height > 0)


@given(st.lists(st.tuples(st.sampled_from([b"ftyp", b"moov", b"mdat", b"free"]), st.integers(0, 40)), max_size=12))
@example([(b"ftyp", 16), (b"moov", 0)])
def test_any_chain_of_boxes_ends(chain: list[tuple[bytes, int]]):
    with suppress(RejectedError):
        probed(b"".join(box(kind, bytes(size), size=size) for kind, size in chain))


_PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "data",
    [
        JPEG[:2] + b"\xff\xfe\x00\x03a" * 5000 + JPEG[2:],
        JPEG[:2] + b"\xff\xd0" * 5000 + JPEG[2:],
        JPEG[:2] + b"\xff" * 5000 + JPEG[2:],
        PNG[:33] + b"\0\0\0\x01tEXta\0\0\0\0" * 5000 + PNG[33:],
        webp(VP8X, webp_chunk(b"ABCD", b"a") * 70_000, WEBP_LOSSY[12:]),
    ],
)
def test_an_image_of_thousands_of_chunks_is_refused(data: bytes) -> None:
    with pytest.raises(RejectedError) as rejected:
        probed(data)
    assert rejected.value.code is RejectCode.FIELD_OUT_OF_RANGE


def test_boxes_within_very_many_boxes_end() -> None:
    nested = b""
    for _ in range(20_000):
        nested = struct.pack(">I", len(nested) + 8) + b"trak" + nested
        if len(nested) > 160_000:
            break
    probe = MediaProbe()
    probe.feed(b"\x00\x00\x00\x10ftypisom\x00\x00\x00\x00" + struct.pack(">I", len(nested) + 8) + b"moov" + nested)
    with pytest.raises(RejectedError, match="no movie header"):
        probe.header()
