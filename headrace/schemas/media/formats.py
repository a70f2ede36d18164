"""The formats of images and videos, told from the bytes alone; docs/uploads.md has the same table."""

import struct
from dataclasses import dataclass
from enum import Enum

FRAME_MEDIA_TYPES = frozenset({"image/avif", "image/heic", "image/heif", "image/jpeg", "image/png", "image/webp"})
CLIP_MEDIA_TYPE = "video/mp4"
CLIP_MEDIA_TYPES = frozenset({CLIP_MEDIA_TYPE, "video/quicktime", "video/3gpp", "video/3gpp2"})
TAKEN = "JPEG, PNG, WebP, AVIF, HEIC, MP4, QuickTime or 3GP"
EXTENSIONS = {
    "image/avif": "avif",
    "image/heic": "heic",
    "image/heif": "heif",
    "image/jpeg": "jpg",
    "image/png": "png",
    "image/webp": "webp",
    "video/3gpp": "3gp",
    "video/3gpp2": "3g2",
    "video/mp4": "mp4",
    "video/quicktime": "mov",
    "application/json": "json",
}

SNIFF_BYTES = 1024  # the beginning of a file that is enough for `format_of`

JPEG, PNG_SIGNATURE = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
# QuickTime files from before 2001 begin with one of these instead of `ftyp`.
QUICKTIME_BOXES = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})

_SEQUENCES = {
    b"avis": "AVIF",
    b"hevc": "HEIC",
    b"hevx": "HEIC",
    b"hevm": "HEIC",
    b"hevs": "HEIC",
    b"msf1": "HEIF",
    b"avcs": "HEIF",
}
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis"})
_PICTURES = _HEIC | {b"avif", b"mif1", b"mif2", b"mif3", b"miaf", b"avci", b"vvic", b"j2ki", b"jpeg", b"MA1A", b"MA1B"}
_REFUSED_BRANDS = {b"crx ": "Canon CR3 raw image", b"jp2 ": "JPEG 2000 image", b"jxl ": "JPEG XL image"}
_MOVIES = {  # by the first three characters
    b"qt ": ("QuickTime video", "video/quicktime"),
    b"3gp": ("3GP video", "video/3gpp"),
    b"3gr": ("3GP video", "video/3gpp"),
    b"3gs": ("3GP video", "video/3gpp"),
    b"3ge": ("3GP video", "video/3gpp"),
    b"3gg": ("3GP video", "video/3gpp"),
    b"3g2": ("3GP2 video", "video/3gpp2"),
    b"M4A": ("M4A audio file", CLIP_MEDIA_TYPE),
    b"M4B": ("M4B audio file", CLIP_MEDIA_TYPE),
    b"M4P": ("M4P audio file", CLIP_MEDIA_TYPE),
    b"F4A": ("F4A audio file", CLIP_MEDIA_TYPE),
}

_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


class Family(Enum):
    """How a format is read; REFUSED has a name, UNKNOWN has none."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    HEIF = "heif"
    MOVIE = "movie"
    VIDEO = "video"  # a video that is not taken as a clip, but whose frames can be decoded on the device
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Format:
    """The format of a file; `media_type` is None where it is decided by more than the file's beginning."""

    family: Family
    name: str
    media_type: str | None = None

    @property
    def is_image(self) -> bool:
        """Whether it is an image of a format that is taken."""
        return self.family in {Family.JPEG, Family.PNG, Family.WEBP, Family.HEIF}

    @property
    def is_video(self) -> bool:
        """Whether a reader of videos may decode it."""
        return self.family in {Family.MOVIE, Family.VIDEO}


_UNKNOWN = Format(Family.UNKNOWN, "file of an unknown format")

_SIGNATURES: tuple[tuple[int, bytes, Format], ...] = (
    (0, JPEG, Format(Family.JPEG, "JPEG", "image/jpeg")),
    (0, PNG_SIGNATURE, Format(Family.PNG, "PNG", "image/png")),
    (8, b"WEBP", Format(Family.WEBP, "WebP", "image/webp")),
    (0, b"GIF87a", Format(Family.REFUSED, "GIF image")),
    (0, b"GIF89a", Format(Family.REFUSED, "GIF image")),
    (0, b"II*\x00", Format(Family.REFUSED, "TIFF image or camera raw file")),
    (0, b"MM\x00*", Format(Family.REFUSED, "TIFF image or camera raw file")),
    (0, b"II+\x00", Format(Family.REFUSED, "TIFF image or camera raw file")),
    (0, b"MM\x00+", Format(Family.REFUSED, "TIFF image or camera raw file")),
    (0, b"\xff\x0a", Format(Family.REFUSED, "JPEG XL image")),
    (4, b"JXL \r\n\x87\n", Format(Family.REFUSED, "JPEG XL image")),
    (4, b"jP  \r\n\x87\n", Format(Family.REFUSED, "JPEG 2000 image")),
    (0, b"\xffO\xffQ", Format(Family.REFUSED, "JPEG 2000 image")),
    (0, b"8BPS", Format(Family.REFUSED, "Photoshop image")),
    (0, b"\x00\x00\x01\x00", Format(Family.REFUSED, "icon")),
    (8, b"AVI ", Format(Family.VIDEO, "AVI video")),
    (8, b"WAVE", Format(Family.REFUSED, "WAV audio file")),
    (0, b"FLV\x01", Format(Family.VIDEO, "Flash video")),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Format(Family.VIDEO, "Windows Media video")),
    (0, b"\x00\x00\x01\xba", Format(Family.VIDEO, "MPEG program stream")),
    (0, b"\x00\x00\x01\xb3", Format(Family.VIDEO, "MPEG video stream")),
    (0, b"\x00\x00\x00\x01", Format(Family.VIDEO, "raw H.264 or H.265 stream")),
    (0, b"OggS", Format(Family.VIDEO, "Ogg file")),
    (0, b"ID3", Format(Family.REFUSED, "MP3 audio file")),
    (0, b"fLaC", Format(Family.REFUSED, "FLAC audio file")),
    (0, b"%PDF-", Format(Family.REFUSED, "PDF document")),
    (0, b"PK\x03\x04", Format(Family.REFUSED, "ZIP archive")),
    (0, b"\x1f\x8b", Format(Family.REFUSED, "gzip archive")),
)
_RIFF = frozenset({b"WEBP", b"AVI ", b"WAVE"})


def format_of(head: bytes) -> Format:
    """Return the format of a file from its first SNIFF_BYTES; the rest of it may still be damaged."""
    for offset, signature, file_format in _SIGNATURES:
        if head[offset : offset + len(signature)] != signature:
            continue
        if signature not in _RIFF or head[:4] == b"RIFF":
            return file_format
    kind = head[4:8]
    if kind == b"ftyp":
        return _by_brand(head)
    if kind in QUICKTIME_BOXES:
        return Format(Family.MOVIE, "QuickTime video", "video/quicktime")
    if head[:4] == b"\x1aE\xdf\xa3":
        return Format(Family.VIDEO, "WebM video" if b"webm" in head[:64] else "Matroska video")
    return _by_structure(head)


def brands_of(head: bytes) -> tuple[bytes, frozenset[bytes]]:
    """Return the major brand and all brands of a file that begins with `ftyp`."""
    size = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, size - 3, 4))]
    return brands[0], frozenset(brands)


def heif_media_type(brands: frozenset[bytes], codec: bytes) -> str:
    """Return the media type of a picture whose coded items are of type `av01` or `hvc1`."""
    if codec == b"av01":
        return "image/avif"
    return "image/heic" if brands & _HEIC else "image/heif"


def _by_brand(head: bytes) -> Format:
    major, brands = brands_of(head)
    if major in _SEQUENCES:
        return Format(Family.REFUSED, f"{_SEQUENCES[major]} image sequence")
    if major in _PICTURES:
        return Format(Family.HEIF, "AVIF" if b"avif" in brands else "HEIC or HEIF")
    if major in _REFUSED_BRANDS:
        return Format(Family.REFUSED, _REFUSED_BRANDS[major])
    name, media_type = _MOVIES.get(major[:3], ("MP4 video", CLIP_MEDIA_TYPE))
    return Format(Family.MOVIE, name, media_type)


def _by_structure(head: bytes) -> Format:
    if head[:2] == b"BM" and len(head) >= 18 and struct.unpack_from("<I", head, 14)[0] in _BMP_HEADERS:
        return Format(Family.REFUSED, "BMP image")
    if head[:1] == b"G" and head[188:189] == b"G" and head[376:377] in {b"G", b""}:
        return Format(Family.VIDEO, "MPEG transport stream")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:256].lower()
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg")) and b"<svg" in head.lower():
        return Format(Family.REFUSED, "SVG image")
    return _UNKNOWN
