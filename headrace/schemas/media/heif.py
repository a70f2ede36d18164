"""Parser of HEIF pictures (ISO/IEC 23008-12): HEIC and AVIF, whole pictures also where they are stored in tiles.

The size is that of the primary item's `ispe`, its orientation the one of `irot` and `imir`; EXIF has no say in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from headrace.schemas.media.formats import brands_of, heif_media_type
from headrace.schemas.media.headers import ImageHeader
from headrace.schemas.media.reading import TAKE_BYTES_MAX, EndOfFileError, Parser, Skip, Take
from headrace.schemas.reject import RejectCode, RejectedError

BOXES_MAX = 4096
FTYP_BYTES_MAX = 1024

_DERIVED = frozenset({b"grid", b"iovl", b"iden"})  # pictures made of others
_CODECS = frozenset({b"av01", b"hvc1"})
# Orientations in the values of EXIF: after turning by 90 degrees anticlockwise, and after mirroring.
_TURNED = {1: 8, 2: 7, 3: 6, 4: 5, 5: 2, 6: 1, 7: 4, 8: 3}
_LEFT_RIGHT = {1: 2, 2: 1, 3: 4, 4: 3, 5: 6, 6: 5, 7: 8, 8: 7}
_TOP_BOTTOM = {1: 4, 2: 3, 3: 2, 4: 1, 5: 8, 6: 7, 7: 6, 8: 5}


@dataclass(slots=True)
class _Meta:
    """What the `meta` box declares of the items."""

    primary: int | None = None
    types: dict[int, bytes] = field(default_factory=dict)
    made_of: dict[int, int] = field(default_factory=dict)  # the first item that a derived one is made of
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)
    properties_of: dict[int, list[int]] = field(default_factory=dict)


def heif() -> Parser[ImageHeader]:
    """Parse a HEIF file, wherever its `meta` box is."""
    header: ImageHeader | None = None
    try:
        _, size = yield from box_start((yield Take(8)))
        if size is None or size > FTYP_BYTES_MAX:
            _refuse("the HEIF's file type box is malformed")
        brand = yield Take(size)
        brands = brands_of((size + 8).to_bytes(4, "big") + b"ftyp" + brand)[1]
        for _ in range(BOXES_MAX):
            try:
                head = yield Take(8)
            except EndOfFileError:
                break
            kind, size = yield from box_start(head)
            if kind == b"meta" and header is None and size is not None and size <= TAKE_BYTES_MAX:
                header = _picture(_meta_of((yield Take(size))), brands)
            elif size is None or (header is not None and not kind.isalnum()):
                break  # to the end of the file, or no box at all
            else:
                yield Skip(size)
        else:
            _refuse(f"the HEIF has more than {BOXES_MAX} boxes")
    except EndOfFileError:
        _refuse("the HEIF picture ends too early")
    if header is None:
        _refuse("the HEIF has no picture")
    return header


def box_start(head: bytes) -> Parser[tuple[bytes, int | None]]:
    """Return type and size of the content of a box whose first 8 bytes are `head`; None is up to the file's end.

    Raises:
        RejectedError: its size is impossible.
    """
    size, kind = int.from_bytes(head[:4], "big"), head[4:]
    if size == 1:
        size = max(1, int.from_bytes((yield Take(8)), "big") - 8)
    if 0 < size < 8:
        _refuse("a box of the file is malformed")
    return kind, size - 8 if size else None


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and content of the boxes in `data`, up to the first malformed one."""
    at = 0
    for _ in range(BOXES_MAX):
        size = int.from_bytes(data[at : at + 4], "big") or len(data) - at
        if size < 8 or at + size > len(data):
            return
        yield data[at + 4 : at + 8], data[at + 8 : at + size]
        at += size


def _meta_of(data: bytes) -> _Meta:
    meta = _Meta()
    for kind, content in boxes(data[4:]):
        match kind:
            case b"pitm":
                meta.primary = int.from_bytes(content[4:8] if content[:1] == b"\x01" else content[4:6], "big")
            case b"iinf":
                meta.types |= _item_types(content)
            case b"iref":
                meta.made_of |= _first_parts(content)
            case b"iprp":
                for inner, properties in boxes(content):
                    if inner == b"ipco":
                        meta.properties = list(boxes(properties))
                    elif inner == b"ipma":
                        meta.properties_of |= _associations(properties)
    return meta


def _item_types(data: bytes) -> dict[int, bytes]:
    types: dict[int, bytes] = {}
    for _, entry in boxes(data[6 if data[:1] == b"\x00" else 8 :]):
        wide = 4 if entry[:1] == b"\x03" else 2
        types[int.from_bytes(entry[4 : 4 + wide], "big")] = entry[6 + wide : 10 + wide]
    return types


def _first_parts(data: bytes) -> dict[int, int]:
    wide = 4 if data[:1] == b"\x01" else 2
    return {
        int.from_bytes(entry[:wide], "big"): int.from_bytes(entry[wide + 2 : 2 * wide + 2], "big")
        for reference, entry in boxes(data[4:])
        if reference == b"dimg" and len(entry) >= 2 * wide + 2
    }


def _associations(data: bytes) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    wide_ids, wide_indexes = data[:1] != b"\x00", bool(data[3:4] and data[3] & 1)
    at, id_bytes, index_bytes = 8, 4 if wide_ids else 2, 2 if wide_indexes else 1
    for _ in range(min(int.from_bytes(data[4:8], "big"), BOXES_MAX)):
        item, count = int.from_bytes(data[at : at + id_bytes], "big"), data[at + id_bytes : at + id_bytes + 1]
        at += id_bytes + 1
        mask = 0x7FFF if wide_indexes else 0x7F
        found[item] = []
        for _ in range(count[0] if count else 0):
            found[item].append(int.from_bytes(data[at : at + index_bytes], "big") & mask)
            at += index_bytes
    return found


def _picture(meta: _Meta, brands: frozenset[bytes]) -> ImageHeader:
    if meta.primary is None:
        _refuse("the HEIF has no primary picture")
    codec = _codec_of(meta, meta.primary)
    size, orientation, crop = (0, 0), 1, (0, 0)
    for index in meta.properties_of.get(meta.primary, []):
        kind, data = meta.properties[index - 1] if 0 < index <= len(meta.properties) else (b"", b"")
        match kind:
            case b"ispe":
                size = int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big")
            case b"irot" | b"imir":
                orientation = _reoriented(orientation, kind, data[:1])
            case b"clap":
                crop = _ratio(data[:8]), _ratio(data[8:16])
    if not all(size):
        _refuse("the HEIF does not declare its size")
    # Encoders of HEVC fill its blocks up, and crop that away; libavif does not crop.
    if codec == b"hvc1" and 0 < crop[0] <= size[0] and 0 < crop[1] <= size[1]:
        size = crop
    return ImageHeader(heif_media_type(brands, codec), *size, orientation)


def _codec_of(meta: _Meta, item: int) -> bytes:
    codec = meta.types.get(item, b"")
    for _ in range(8):
        if codec not in _DERIVED:
            break
        item = meta.made_of.get(item, -1)
        codec = meta.types.get(item, b"")
    if codec not in _CODECS:
        _refuse(f"a HEIF picture of type {codec.decode('ascii', 'replace')!r} is not taken, only HEIC and AVIF")
    return codec


def _reoriented(orientation: int, kind: bytes, data: bytes) -> int:
    number = data[0] if data else 0
    if kind == b"imir":
        return (_LEFT_RIGHT if number & 1 else _TOP_BOTTOM)[orientation]
    for _ in range(number & 3):
        orientation = _TURNED[orientation]
    return orientation


def _ratio(data: bytes) -> int:
    return round(int.from_bytes(data[:4], "big") / (int.from_bytes(data[4:], "big") or 1))


def _refuse(reason: str) -> NoReturn:
    raise RejectedError(RejectCode.NOT_AN_IMAGE, reason)
