"""Pictures are decoded whole and upright, and their EXIF is values."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.runtime.exif import captured_at_us_of, exif_of
from headrace.runtime.pictures import decode_upright, inspect_picture
from headrace.schemas.media_probe import image_header_of
from headrace.schemas.reject import RejectedError
from headrace.streams.consumers.pictures import decode

# The place at which the upper left corner of the stored picture is shown, for each orientation of EXIF.
SHOWN_AT = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}


def corner(width: int = 96, height: int = 64) -> Image.Image:
    """Red in the upper left quarter, blue elsewhere."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, :, 2] = 250
    pixels[: height // 2, : width // 2] = (250, 0, 0)
    return Image.fromarray(pixels)


def encoded(form: str, image: Image.Image | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (image or corner()).save(out, form, **options)
    return out.getvalue()


def red_at(image: np.ndarray) -> list[tuple[int, int]]:
    height, width = image.shape[:2]
    places = {(y, x): image[height * (1 + 2 * y) // 4, width * (1 + 2 * x) // 4] for y in (0, 1) for x in (0, 1)}
    return [place for place, (red, _, blue) in places.items() if red > 150 > blue]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_a_picture_is_upright_everywhere(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    body = encoded(form, exif=exif.tobytes())
    header = image_header_of(body)
    picture = inspect_picture(body, header)
    upright = np.asarray(decode_upright(body, header, "RGB"))
    measured = decode(body, colour=True)
    assert red_at(upright) == red_at(measured.pixels[:, :, ::-1]) == [SHOWN_AT[orientation]]
    size = (96, 64) if orientation < 5 else (64, 96)
    assert (picture.display_width, picture.display_height) == (measured.width, measured.height) == size
    assert picture.orientation == orientation
    assert (header.width, header.height) == (96, 64)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_a_damaged_picture_is_refused(form: str) -> None:
    body = bytearray(encoded(form, Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 96, 3), np.uint8))))
    header = image_header_of(bytes(body))
    with pytest.raises(RejectedError, match="cannot be decoded"):
        inspect_picture(bytes(body[: len(body) // 2]), header)


@pytest.mark.parametrize(
    "image",
    [
        corner().convert("CMYK"),
        corner().convert("L"),
        corner(641, 479),
    ],
)
def test_a_jpeg_of_any_colours_can_be_decoded(image: Image.Image) -> None:
    body = encoded("JPEG", image, progressive=True)
    header = image_header_of(body)
    assert inspect_picture(body, header).display_width == header.width == decode(body, colour=False).width


def exif_bytes(**tags: Any) -> Image.Exif:
    exif = Image.Exif()
    for name, value in tags.items():
        exif.get_ifd(0x8769)[int(name[1:], 16)] = value
    read = Image.Exif()
    read.load(exif.tobytes())
    return read


def test_text_is_utf_8_before_latin_1() -> None:
    written = Image.Exif()
    written[0x010F], written[0x0110] = "Gr__e", "Gr_-e"
    raw = written.tobytes().replace(b"Gr__e", "Grüe".encode()).replace(b"Gr_-e", b"Gr\xf6\xdfe")
    exif = Image.Exif()
    exif.load(raw)
    assert exif_of(exif) == {"Make": "Grüe", "Model": "Größe"}


def test_values_have_types_and_point_nowhere() -> None:
    exif = exif_of(
        exif_bytes(
            x829A=0.025,
            x9000=b"0232",
            x927C=b"\x01" * 300,
            x9286=b"UNICODE\x00" + "Größe".encode("utf-16-le"),
            xA432=(4.25, 4.25, 1.5, 1.5),
            xA300=b"\x03",
        )
    )
    assert exif["ExposureTime"] == pytest.approx(0.025)
    assert (exif["ExifVersion"], exif["UserComment"], exif["FileSource"]) == ("0232", "Größe", 3)
    assert exif["LensSpecification"] == [4.25, 4.25, 1.5, 1.5]
    assert not {"MakerNote", "ExifOffset"} & exif.keys()
    assert exif_of(exif_bytes(x829A=(1, 40)))["ExposureTime"] == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("text", "offset", "fraction", "at_us"),
    [
        ("2025:11:24 03:06:40", "+01:00", None, 1_763_950_000_000_000),
        ("2025:11:24 02:06:40", "Z", "25", 1_763_950_000_250_000),
        ("2025:11:23 21:36:40", "-04:30", "1234567", 1_763_950_000_123_456),
        ("2025:11:24 03:06:40", None, None, None),
        ("0000:00:00 00:00:00", "+01:00", None, None),
        ("2025:11:24 03:06:40", "   :  ", None, None),
        ("yesterday", "+01:00", None, None),
    ],
)
def test_the_time_of_a_picture_needs_its_offset(
    text: str, offset: str | None, fraction: str | None, at_us: int | None
) -> None:
    tags = {"DateTimeOriginal": text, "OffsetTimeOriginal": offset, "SubsecTimeOriginal": fraction}
    assert captured_at_us_of({name: value for name, value in tags.items() if value is not None}) == at_us


def test_preprocessing_decodes_what_opencv_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    body = encoded("PNG")
    monkeypatch.setattr("headrace.streams.consumers.pictures.cv2.imdecode", lambda *_: None)
    assert red_at(decode(body, colour=True).pixels[:, :, ::-1]) == [(0, 0)]
