"""The camera ingestion service's uploads, as its clients make them; captures are in test_rtsp.py."""

from hashlib import sha256
from io import BytesIO

import httpx
import pytest
from PIL import Image

from tests.gateway.gateway_world import Gateway, name, picture

pytestmark = pytest.mark.stack


def with_exif() -> bytes:
    out = BytesIO()
    exif = Image.Exif()
    exif[0x010F] = "ACME"
    exif[0x0132] = "2026:01:31 12:00:00"
    Image.open(BytesIO(picture(320, 200))).save(out, "JPEG", exif=exif)
    return out.getvalue()


def test_files_are_taken_and_described(gateway: Gateway) -> None:
    camera, photo = name("camera"), with_exif()
    with gateway.client() as client:
        answer = client.post(
            "/api/v1/ingest/upload",
            data={"camera_id": camera},
            files=[
                ("files", ("one.jpg", photo, "image/jpeg")),
                ("files", ("two.png", picture(form=".png"), "image/png")),
            ],
        )
        assert answer.status_code == 201, answer.text
        body = answer.json()
        status = client.get(f"/api/v1/ingest/status/{body['request_id']}")
    assert (body["status"], body["camera_id"]) == ("ingested", camera)
    one = body["files"][0]
    assert (one["filename"], one["width"], one["height"], one["size_bytes"]) == ("one.jpg", 320, 200, len(photo))
    assert (one["media_type"], one["sha256"]) == ("image/jpeg", sha256(photo).hexdigest())
    assert one["exif"]["Make"] == "ACME"
    assert one["storage_key"].endswith(one["sha256"])
    assert httpx.get(one["presigned_url"]).content == photo
    assert gateway.rows("select source_id from records where record_id = %s", one["frame_id"]) == [(camera,)]
    said = status.json()
    assert (status.status_code, said["status"], said["camera_id"], said["errors"]) == (200, "ingested", camera, [])
    assert [frame["frame_id"] for frame in said["frames"]] == [file["frame_id"] for file in body["files"]]
    assert status.headers["cache-control"] == "no-store"


def test_partial_success_is_reported_file_by_file(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post(
            "/api/v1/ingest/upload",
            data={"camera_id": name("camera")},
            files=[("files", ("bad.jpg", b"<svg onload=alert(1)>")), ("files", ("good.jpg", picture()))],
        )
        assert answer.status_code == 201, answer.text
        body = answer.json()
        status = client.get(f"/api/v1/ingest/status/{body['request_id']}").json()
    assert body["status"] == "partial"
    assert [file["status"] for file in body["files"]] == ["failed", "ingested"]
    assert body["files"][0]["error"]["code"] == "not_an_image"
    assert (status["status"], [one["code"] for one in status["errors"]]) == ("partial", ["not_an_image"])


def test_where_no_file_is_good_nothing_is_taken(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post(
            "/api/v1/ingest/upload", data={"camera_id": "c"}, files={"files": ("a.jpg", b"\x7fELF....")}
        )
    [file] = answer.json()["files"]
    assert (answer.status_code, file["error"]["code"]) == (422, "not_an_image")


def test_camera_id_is_needed(gateway: Gateway) -> None:
    with gateway.client() as client:
        answer = client.post("/api/v1/ingest/upload", files={"files": ("a.jpg", picture())})
    assert answer.status_code == 422


def test_the_camera_may_be_named_after_its_files(gateway: Gateway) -> None:
    camera = name("camera")
    with gateway.client() as client:
        answer = client.post(
            "/api/v1/ingest/upload", files=[("files", ("a.jpg", picture())), ("camera_id", (None, camera))]
        )
    assert (answer.status_code, answer.json()["camera_id"]) == (201, camera)


def test_another_callers_request_is_not_shown(gateway: Gateway) -> None:
    camera = name("camera")
    with gateway.client(sources=[f"default/{camera}"]) as client:
        answer = client.post("/api/v1/ingest/upload", data={"camera_id": camera}, files={"files": ("a.jpg", picture())})
    request_id = answer.json()["request_id"]
    with gateway.client(sources=["default/other"]) as other:
        assert other.get(f"/api/v1/ingest/status/{request_id}").status_code == 404
    with gateway.client("operator") as operator:
        assert operator.get(f"/api/v1/ingest/status/{request_id}").status_code == 200
