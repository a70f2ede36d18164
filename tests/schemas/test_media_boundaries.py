"""Files at the edges of what their formats allow: refused with a reason, or with the header that they declare."""

import struct
from io import BytesIO

import pytest
from PIL import Image

from headrace.schemas.media.formats import Family, format_of
from headrace.schemas.media.movie import DEPTH_MAX, TRACKS_MAX
from headrace.schemas.media_probe import VideoHeader, probe_of
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import is_plausible_time
from tests.schemas.media_samples import FTYP, HEADER, MVHD, VIDEO, box, large_box, meta, picture, probed, tkhd, track

NOW_US = 1_790_000_000_000_000
MDAT = box(b"mdat", bytes(100))
HEIC = box(b"ftyp", b"heic\x00\x00\x00\x00mif1heic")
ISPE = box(b"ispe", bytes(4) + struct.pack(">II", 64, 48))


def movie(*tracks: bytes, more: bytes = b"") -> bytes:
    return FTYP + box(b"moov", MVHD + b"".join(tracks) + more) + MDAT


def with_stbl(*leaves: bytes, handler: bytes = b"vide") -> bytes:
    hdlr = box(b"hdlr", bytes(8) + handler + bytes(13))
    stbl = box(b"minf", box(b"stbl", b"".join(leaves)))
    return box(b"trak", tkhd(4, 2) + box(b"mdia", hdlr + stbl))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    from zlib import crc32

    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc32(kind + data))


def png(width: int = 4, height: int = 2, depth: int = 8, colour: int = 2, *, pixels: bool = True) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + (png_chunk(b"IDAT", b"x") if pixels else b"") + png_chunk(b"IEND", b"")


def jpeg(frame: bytes) -> bytes:
    scan = b"\xff\xda\x00\x02" + bytes(10) + b"\xff\xd9"
    return b"\xff\xd8" + frame + scan


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (jpeg(b""), "no frame header"),
        (jpeg(b"\xff\xc0\x00\x04\x08\x00"), "frame header of the JPEG is malformed"),
        (jpeg(b"\xff\xc0\x00\x0b\x0c\x00\x02\x00\x04\x01\x01\x11\x00"), "JPEG of 12 bits"),
        (png(pixels=False), "no pixels"),
        (png(width=0), "declares 0 by 2 pixels"),
        (png(depth=3), "declares 3 bits"),
        (box(b"ftyp", b"heic\x00\x00\x00\x00mif1heic", size=5000) + bytes(6000), "file type box is malformed"),
        (HEIC + box(b"free", bytes(2000)), "HEIF has no picture"),
        (HEIC + box(b"free") * 5000, "more than 4096 boxes"),
        (HEIC + struct.pack(">I4s", 0, b"mdat") + bytes(2000), "HEIF has no picture"),
        (HEIC + box(b"meta", bytes(4) + box(b"iprp", box(b"free"))), "no primary picture"),
        (HEIC + meta(ISPE, item=b"grid"), "type '' is not taken"),
        (b"\xff\xd8\xff\xe0\x00\x01" + bytes(20), "segment of the JPEG is malformed"),
        (HEIC + box(b"meta", bytes(4) + box(b"free") * 5000), "no primary picture"),
        (FTYP + box(b"moov", MVHD), "no video track"),
    ],
)
def test_a_file_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(RejectedError, match=reason):
        probed(data)


def test_what_follows_the_boxes_of_a_picture_is_passed_over() -> None:
    whole = HEIC + meta(ISPE) + box(b"mdat", bytes(2000))
    assert probed(whole + bytes(40)) == probed(whole)


def test_items_that_are_made_of_one_another_end() -> None:
    dimg = box(b"iref", bytes(4) + box(b"dimg", struct.pack(">HHH", 1, 1, 1)))
    with pytest.raises(RejectedError, match="type 'grid' is not taken"):
        probed(HEIC + meta(ISPE, item=b"grid", more=dimg))


@pytest.mark.parametrize(
    "data",
    [
        movie(VIDEO, more=large_box(b"free", bytes(30))),
        movie(VIDEO, more=box(b"trak", struct.pack(">I4s", 4, b"mdia"))),
        movie(VIDEO, more=box(b"trak", struct.pack(">I4s", 999, b"mdia"))),
        movie(VIDEO, more=box(b"udta") * 3 + bytes(5)),
        movie(*[VIDEO] * (TRACKS_MAX + 1)),
        movie(box(b"stsz", bytes(12)), VIDEO),
        movie(VIDEO, box(b"trak", box(b"tkhd", bytes(20)))),
        movie(VIDEO, more=box(b"mvex", box(b"trex", struct.pack(">IIIII", 0, 7, 1, 40, 0)))),
        movie(VIDEO) + box(b"moof", box(b"traf", box(b"trun", bytes(8)))) + MDAT,
        movie(VIDEO, more=MVHD),
        movie(VIDEO, with_stbl(box(b"stsd", bytes(12) + b"mp4a" + bytes(60)), handler=b"text")),
    ],
    ids=[
        "64 bits",
        "short",
        "long",
        "rest",
        "tracks",
        "no track",
        "short header",
        "trex",
        "no fragment",
        "twice",
        "text",
    ],
)
def test_what_is_odd_in_a_movie_leaves_its_header(data: bytes) -> None:
    header = probed(data)
    assert isinstance(header, VideoHeader)
    assert (header.width, header.height) == (HEADER.width, HEADER.height)


def test_a_sample_description_without_a_size_leaves_that_of_the_track() -> None:
    header = probed(movie(with_stbl(box(b"stsd", bytes(12) + b"avc1" + bytes(60)))))
    assert isinstance(header, VideoHeader)
    assert (header.codec, header.width, header.height) == ("avc1", 4, 2)


@pytest.mark.parametrize("kind", ["stco", "co64"])
@pytest.mark.parametrize("count", [1, 20_000])
def test_the_last_chunk_lies_within_the_file(kind: str, count: int) -> None:
    wide = ">I" if kind == "stco" else ">Q"
    table = bytes(4) + struct.pack(">I", count) + struct.pack(wide, 50) * (count - 1)
    whole = movie(with_stbl(box(kind.encode(), table + struct.pack(wide, 50))))
    assert isinstance(probed(whole), VideoHeader)
    with pytest.raises(RejectedError, match="ends too early"):
        probed(movie(with_stbl(box(kind.encode(), table + struct.pack(wide, len(whole) + 1000)))))


def test_a_table_without_chunks_says_nothing() -> None:
    assert isinstance(probed(movie(with_stbl(box(b"co64", bytes(8))))), VideoHeader)
    assert isinstance(probed(movie(with_stbl(box(b"stco", bytes(8))))), VideoHeader)


def test_the_duration_of_fragments_may_be_declared() -> None:
    mehd = box(b"mvex", box(b"mehd", bytes(4) + struct.pack(">I", 9000)))
    header = probed(movie(VIDEO, more=mehd))
    assert isinstance(header, VideoHeader)
    assert header.duration_us == 9_000_000
    without_scale = FTYP + box(b"moov", box(b"mvhd", bytes(100)) + mehd + VIDEO) + MDAT
    header = probed(without_scale)
    assert isinstance(header, VideoHeader)
    assert header.duration_us is None


def test_the_samples_of_a_fragment_may_have_durations_of_their_own() -> None:
    tfhd = box(b"tfhd", b"\x00\x00\x00\x0b" + struct.pack(">IQIII", 0, 0, 1, 30, 0))
    runs = [
        box(b"trun", b"\x00\x00\x01\x00" + struct.pack(">III", 2, 100, 200)),
        box(b"trun", b"\x00\x00\x00\x05" + struct.pack(">III", 3, 0, 0)),
    ]
    mdhd = box(b"mdhd", bytes(12) + struct.pack(">II", 1000, 0) + bytes(4))
    hdlr = box(b"hdlr", bytes(8) + b"vide" + bytes(13))
    fragmented = FTYP + box(b"moov", MVHD + box(b"trak", tkhd(4, 2) + box(b"mdia", mdhd + hdlr)))
    header = probed(fragmented + box(b"moof", box(b"traf", tfhd + b"".join(runs))) + MDAT)
    assert isinstance(header, VideoHeader)
    assert header.duration_us == 2_500_000
    assert header.frame_rate == round(5 * 1000 / 390, 3)


def test_containers_within_containers_are_read_to_a_depth() -> None:
    nested = VIDEO
    for _ in range(DEPTH_MAX + 2):
        nested = box(b"minf", nested)
    with pytest.raises(RejectedError, match="no video track"):
        probed(movie(nested))


def test_an_image_is_no_video_and_a_video_no_image() -> None:
    with pytest.raises(RejectedError) as caught:
        probe_of(movie(VIDEO)).image()
    assert (caught.value.code, "is a video" in caught.value.reason) == (RejectCode.NOT_AN_IMAGE, True)
    with pytest.raises(RejectedError) as caught:
        probe_of(picture("PNG")).video()
    assert (caught.value.code, "is an image" in caught.value.reason) == (RejectCode.NOT_A_VIDEO, True)


def test_formats_are_images_videos_or_neither() -> None:
    stream = (b"G" + bytes(187)) * 3
    out = BytesIO()
    Image.new("RGB", (4, 2)).save(out, "GIF")
    told = [format_of(data) for data in (picture("JPEG"), stream, out.getvalue(), b"\x00" * 8 + b"WAVE" + bytes(20))]
    assert [(each.family, each.is_image, each.is_video) for each in told] == [
        (Family.JPEG, True, False),
        (Family.VIDEO, False, True),
        (Family.REFUSED, False, False),
        (Family.UNKNOWN, False, False),
    ]


@pytest.mark.parametrize(
    ("time_us", "plausible"), [(None, False), (0, False), (NOW_US, True), (NOW_US + 10 * 86_400_000_000, False)]
)
def test_a_time_is_plausible_or_not(time_us: int | None, *, plausible: bool) -> None:
    assert is_plausible_time(time_us, NOW_US) is plausible


def test_a_track_may_be_on_its_side() -> None:
    header = probed(movie(track(4, 2, matrix=(0, 1, 0, -1, 0, 0, 0, 0, 0))))
    assert isinstance(header, VideoHeader)
    assert header.rotation == 90
