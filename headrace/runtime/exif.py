"""EXIF by name, as JSON can hold it: numbers, text and lists of numbers, without pointers into the file."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from PIL import ExifTags, Image

TAGS_MAX = 128
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEXT_CHARACTERS_MAX = 500
LIST_ITEMS_MAX = 16

_EXIF, _GPS, _INTEROP = 0x8769, 0x8825, 0xA005
# Places in the file, and what only their maker can read: SubIFDs, strips, tiles, thumbnails, maker notes.
_POINTERS = frozenset({_EXIF, _GPS, _INTEROP, 0x014A, 0x0111, 0x0117, 0x0144, 0x0145, 0x0201, 0x0202, 0x927C, 0xEA1C})
_INTEROP_NAMES = {1: "InteropIndex", 2: "InteropVersion", 4096: "RelatedImageFileFormat"}
_CHARACTER_CODES = {b"ASCII\0\0\0": "utf-8", b"UNICODE\0": "utf-16", b"JIS\0\0\0\0\0": "iso2022_jp", bytes(8): "utf-8"}
_COMMENTS = frozenset({"UserComment", "GPSProcessingMethod", "GPSAreaInformation"})
# Of which each has one value, a ratio, which some programs write as two integers.
_RATIOS = frozenset(
    {"ExposureTime", "FNumber", "ExposureBiasValue", "ShutterSpeedValue", "ApertureValue", "BrightnessValue"}
    | {"MaxApertureValue", "SubjectDistance", "FocalLength", "DigitalZoomRatio", "XResolution", "YResolution"}
    | {"GPSAltitude", "GPSSpeed", "GPSTrack", "GPSImgDirection", "GPSDestBearing", "GPSDOP", "GPSHPositioningError"}
)
_SAME_TAG = {"ISOSpeedRatings": "ISO", "PhotographicSensitivity": "ISO"}


def exif_of(exif: Image.Exif) -> dict[str, Any]:
    """Return the tags of the main, Exif, GPS and Interop directories; a malformed directory has none.

    `GPS` has the position in degrees and metres, where the directory has one.
    """
    named: dict[str, Any] = {}
    for number, names in ((None, ExifTags.TAGS), (_EXIF, ExifTags.TAGS), (_GPS, ExifTags.GPSTAGS), (_INTEROP, None)):
        try:
            tags = dict(exif) if number is None else dict(exif.get_ifd(number))
        except Exception:  # noqa: BLE001, S112 - a malformed directory may raise any exception
            continue
        for tag, value in list(tags.items())[:TAGS_MAX]:
            if tag in _POINTERS:
                continue
            name = _INTEROP_NAMES.get(tag) if names is None else names.get(tag)
            name = name or f"0x{tag:04X}"
            shown = _shown(name, value)
            if shown is not None and name not in named and len(named) < TAGS_MAX:
                named[name] = shown
    for name, other in _SAME_TAG.items():
        if name in named:
            named.setdefault(other, named[name])
    position = _position(named)
    return named | ({"GPS": position} if position else {})


def captured_at_us_of(exif: dict[str, Any]) -> int | None:
    """Return DateTimeOriginal in Unix microseconds; None where it or its offset is missing or malformed.

    Without its offset the time is a local one of an unknown place, so it says nothing.
    """
    text, offset = exif.get("DateTimeOriginal"), exif.get("OffsetTimeOriginal")
    if not isinstance(text, str) or not isinstance(offset, str):
        return None
    fraction = str(exif.get("SubsecTimeOriginal", exif.get("SubSecTimeOriginal", ""))).strip()
    fraction = f".{fraction[:6]}" if fraction.isascii() and fraction.isdigit() else ""
    zone = "+00:00" if offset.strip() == "Z" else offset.strip()
    try:
        day, _, clock = text.strip().partition(" ")
        time = datetime.fromisoformat(f"{day.replace(':', '-')}T{clock}{fraction}{zone}")
    except ValueError:
        return None
    return None if time.tzinfo is None else (time - _EPOCH) // timedelta(microseconds=1)


def _shown(name: str, value: object) -> str | int | float | list[Any] | None:
    match value:
        case bytes():
            return _text_of(name, value)
        case str():
            return _printable(_decoded(value.encode("latin-1")) if all(ord(char) < 256 for char in value) else value)
        case tuple() | list():
            return _list_of(name, value)
        case _:
            return _number(value)


def _list_of(name: str, values: Sequence[object]) -> float | list[Any] | None:
    if name in _RATIOS and len(values) == 2:
        numerator, denominator = (_number(value) for value in values)
        return numerator / denominator if numerator is not None and denominator else None
    items = [_shown(name, value) for value in values[:LIST_ITEMS_MAX]]
    return items if items and None not in items else None


def _number(value: object) -> int | float | None:
    if isinstance(value, int):
        return value if not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63 else None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e300 else None


def _text_of(name: str, value: bytes) -> str | int | None:
    if name.startswith("XP"):
        return _printable(value.decode("utf-16-le", "replace"))
    if name in _COMMENTS:
        coding = _CHARACTER_CODES.get(value[:8])
        if coding == "utf-16" and value[8:10] not in {b"\xff\xfe", b"\xfe\xff"}:
            coding = "utf-16-le" if value[9:10] == b"\0" else "utf-16-be"
        return _printable(value[8:].decode(coding, "replace") if coding else _decoded(value))
    if len(value) == 1:
        return value[0]
    text = value.rstrip(b"\0")
    return _printable(text.decode()) if len(text) <= 64 and text.isascii() and text.decode().isprintable() else None


def _decoded(raw: bytes) -> str:
    """Return the text as UTF-8, which phones write, else as Latin-1."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _printable(text: str) -> str | None:
    shown = "".join(character for character in text if character.isprintable()).strip()
    return shown[:TEXT_CHARACTERS_MAX] or None


def _position(named: dict[str, Any]) -> dict[str, float]:
    position: dict[str, float] = {}
    for name, axis, bound, negative in (("latitude", "GPSLatitude", 90, "S"), ("longitude", "GPSLongitude", 180, "W")):
        parts = named.get(axis)
        if not isinstance(parts, list) or not 1 <= len(parts) <= 3:
            return {}
        degrees = sum(part / 60**index for index, part in enumerate(parts))
        if not 0 <= degrees <= bound:
            return {}
        position[name] = round(-degrees if named.get(f"{axis}Ref") == negative else degrees, 7)
    altitude = named.get("GPSAltitude")
    if isinstance(altitude, int | float):
        position["altitude"] = -altitude if named.get("GPSAltitudeRef") == 1 else altitude
    return position
