"""Files as phones, cameras and browsers make them, through the real gateway and worker."""

import io
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from PIL import Image

from headrace.schemas.limits import MIB
from tests.gateway.gateway_world import Gateway, name, picture
from tests.schemas.media_samples import FTYP, MVHD, box, track
from tests.streams.streams_samples import mp4, png

pytestmark = pytest.mark.stack


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng().integers(0, 255, (height, width, 3), np.uint8))


def photo(form: str = "JPEG", *, image: Image.Image | None = None, **options: Any) -> bytes:
    out = io.BytesIO()
    (image or noise(160, 120)).save(out, form, **options)
    return out.getvalue()


def upload(gateway: Gateway, *files: tuple[str, bytes], camera_id: str = "") -> list[dict[str, Any]]:
    form = [("files", (filename, body, "application/octet-stream")) for filename, body in files]
    with gateway.client() as client:
        answer = client.post(
            "/api/v1/ingest/upload", data={"camera_id": camera_id or name("phone")}, files=form, timeout=60
        )
    found = answer.json()
    return found.get("files", [{"status": "failed", "error": found}])


def attributes(gateway: Gateway, file: dict[str, Any]) -> dict[str, Any]:
    [(found,)] = gateway.rows("select attributes::text from records where digest = decode(%s, 'hex')", file["sha256"])
    return orjson.loads(found)


def phone_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Gr__e"
    exif.get_ifd(0x8769).update(
        {
            0x9003: "2025:11:24 03:06:40",
            0x9011: "+01:00",
            0x829A: 0.025,
            0x829D: 1.8,
            0x8827: 320,
            0xA434: "back camera",
            0x927C: b"\x00" * 1000,
        }
    )
    exif.get_ifd(0x8825).update({1: "S", 2: (52.0, 30.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)})
    return exif


def test_many_photos_of_one_form_are_each_what_they_are(gateway: Gateway) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x927C] = bytes(np.random.default_rng().integers(0, 255, 45_000, np.uint8))
    photos = [photo(image=noise(1008, 756), quality=95, exif=exif.tobytes()) for _ in range(20)]
    taken = upload(gateway, *((f"IMG_{number:04d}.jpg", body) for number, body in enumerate(photos)))
    assert [(file["status"], file["width"]) for file in taken] == [("ingested", 1008)] * 20


def test_two_hundred_files_that_were_dropped_on_a_browser(gateway: Gateway) -> None:
    dropped = [(f"Ablage/Größe {number}.png", photo("PNG", image=noise(8, 8))) for number in range(200)]
    taken = upload(gateway, *dropped)
    assert [(file["filename"], file["status"]) for file in taken] == [
        (f"Größe {number}.png", "ingested") for number in range(200)
    ]


@pytest.mark.parametrize(("form", "media_type"), [("HEIF", "image/heic"), ("AVIF", "image/avif")])
def test_a_phones_picture_is_a_frame(gateway: Gateway, form: str, media_type: str) -> None:
    [file] = upload(gateway, ("a.bin", photo(form)))
    assert (file["status"], file["media_type"], file["width"], file["height"]) == ("ingested", media_type, 160, 120)


def test_exif_is_values_and_the_time_of_the_picture(gateway: Gateway) -> None:
    [file] = upload(gateway, ("a.jpg", photo(exif=phone_exif().tobytes().replace(b"Gr__e", "Grüe".encode()))))
    exif = file["exif"]
    assert exif["DateTimeOriginal"] == "2025:11:24 03:06:40"
    assert (exif["ExposureTime"], exif["FNumber"], exif["ISO"]) == (pytest.approx(0.025), pytest.approx(1.8), 320)
    assert (exif["LensModel"], exif["Make"]) == ("back camera", "Grüe")
    assert exif["GPS"] == {"latitude": -52.5, "longitude": 13.4}
    assert not {"ExifOffset", "ExifTag", "GPSInfo", "MakerNote"} & exif.keys()
    kept = attributes(gateway, file)
    assert (kept["orientation"], kept["display_width"], kept["display_height"]) == (6, 120, 160)
    assert kept["captured_at_from"] == "exif"
    sql = "select captured_at at time zone 'utc' from records where digest = decode(%s, 'hex')"
    assert str(gateway.rows(sql, file["sha256"])[0][0]) == "2025-11-24 02:06:40"
    assert (file["width"], file["height"]) == (160, 120)


def test_what_decoders_read_is_taken_and_what_they_do_not_is_refused_for_that(gateway: Gateway) -> None:
    jpeg = photo()
    taken = upload(
        gateway,
        ("junk.jpg", jpeg[:20] + b"\x0a" + jpeg[20:]),
        ("cmyk.jpg", photo(image=noise(64, 48).convert("CMYK"))),
        ("sixteen.png", photo("PNG", image=Image.fromarray(np.full((48, 64), 40_000, np.uint16)))),
        ("mpo.jpg", photo("MPO")),
        ("no_end.jpg", jpeg[:-2]),
        ("side.png", photo("PNG", image=Image.new("1", (40_000, 10)))),
        ("a.gif", photo("GIF")),
        ("a.bmp", photo("BMP")),
        ("a.tif", photo("TIFF")),
    )
    reasons = [(file["error"] or {}).get("detail", file["status"]) for file in taken]
    assert reasons[:4] == ["ingested"] * 4
    for reason, words in zip(
        reasons[4:], ("no end marker", "40000 by 10 pixels: each side", "GIF", "BMP", "TIFF"), strict=True
    ):
        assert words in reason


def test_the_header_of_a_large_video_is_read_where_it_is(gateway: Gateway) -> None:
    start = np.random.default_rng().bytes(9 * MIB)
    behind = FTYP + box(b"mdat", start) + box(b"moov", MVHD + track(640, 480))
    [file] = upload(gateway, ("a.mp4", behind))
    assert (file["status"], file["width"], file["height"]) == ("ingested", 640, 480)
    sql = "select duration_us from records where digest = decode(%s, 'hex')"
    assert gateway.rows(sql, file["sha256"]) == [(2_500_000,)]
    assert attributes(gateway, file)["video"]["display_width"] == 640
    hours = MVHD.replace(struct.pack(">II", 1000, 2500), struct.pack(">II", 1, 7200))
    [refused] = upload(gateway, ("a.mp4", FTYP + box(b"mdat", start) + box(b"moov", hours + track(640, 480))))
    assert "duration" in refused["error"]["detail"]
    whole = mp4(filler=start)
    [cut] = upload(gateway, ("a.mp4", whole[:-5]))
    assert "ends too early" in cut["error"]["detail"]


@pytest.mark.parametrize(
    ("body", "media_type"),
    [
        (box(b"wide") + box(b"mdat", b"q") + box(b"moov", MVHD + track(4, 2)), "video/quicktime"),
        (box(b"ftyp", b"qt  \0\0\0\0qt  ") + box(b"moov", MVHD + track(4, 2)), "video/quicktime"),
        (box(b"ftyp", b"3gp4\0\0\0\0") + box(b"moov", MVHD + track(4, 2)), "video/3gpp"),
        (box(b"ftyp", b"M4A \0\0\0\0") + box(b"moov", MVHD + track(0, 0, handler=b"soun")), "no video track"),
        (b"\x1aE\xdf\xa3\x93B\x82\x88webm" + bytes(100), "WebM"),
    ],
)
def test_a_video_is_taken_or_refused_by_name(gateway: Gateway, body: bytes, media_type: str) -> None:
    [file] = upload(gateway, ("a.mp4", body + box(b"free", np.random.default_rng().bytes(9))))
    assert media_type in (file["media_type"] if file["status"] == "ingested" else file["error"]["detail"])


@pytest.mark.parametrize(
    ("disposition", "filename"),
    [
        ("filename=\"=?utf-8?B?R3LDtsOfZS5qcGc=?=\"; filename*=utf-8''Gr%C3%B6%C3%9Fe.jpg", "Größe.jpg"),
        ("filename*=UTF-8''Gr%C3%B6%C3%9Fe.jpg; filename=\"x.jpg\"", "Größe.jpg"),
        ("filename*=iso-8859-1'de'Gr%F6%DFe.jpg; filename=x.jpg", "Größe.jpg"),
        ("filename*=utf-8''%FF.jpg; filename=\"x.jpg\"", "x.jpg"),
        ("filename=\"a; filename*=utf-8''b.jpg\"", "a; filename*=utf-8''b.jpg"),
    ],
)
def test_the_extended_filename_goes_first(gateway: Gateway, disposition: str, filename: str) -> None:
    head = f'--XBOUND\r\nContent-Disposition: form-data; name="camera_id"\r\n\r\n{name("cam")}\r\n--XBOUND\r\n'
    body = f'{head}Content-Disposition: form-data; name="files"; {disposition}\r\n\r\n'.encode()
    with gateway.client() as client:
        answer = client.post(
            "/api/v1/ingest/upload",
            content=body + picture() + b"\r\n--XBOUND--\r\n",
            headers={"Content-Type": "multipart/form-data; boundary=XBOUND"},
        )
    assert [file["filename"] for file in answer.json()["files"]] == [filename]


def test_a_large_file_of_a_camera_with_a_long_name_in_any_script_is_ingested(gateway: Gateway) -> None:
    camera_id = "カメラ１号機・東工場・第三ライン・検査工程・外観検査・上面カメラ"
    for body in (png(shade=7, padding_bytes=9 * MIB), photo("PNG", image=noise(2000, 1600))):
        [file] = upload(gateway, ("a.png", body), camera_id=camera_id)
        assert file["status"] == "ingested"


def test_a_context_time_in_milliseconds_is_the_capture_time(gateway: Gateway) -> None:
    metadata = {"ldo_id": name("ldo"), "sensor_data": {}, "context": {"timestamp": 1_763_950_000_000}, "prediction": {}}
    with gateway.client() as client:
        answer = client.post("/ingest/ldo", files={"metadata": (None, orjson.dumps(metadata).decode())})
    assert answer.status_code == 200, answer.text
    sql = "select captured_at at time zone 'utc' from records where ldo_id = %s"
    assert str(gateway.rows(sql, metadata["ldo_id"])[0][0]) == "2025-11-24 02:06:40"
