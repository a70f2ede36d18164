"""The calls of the five services from a trusted network, unchanged and without a key."""

import json
from collections.abc import Iterator
from io import BytesIO

import httpx
import pytest
from PIL import Image

from headrace.runtime.settings import Settings
from tests.gateway.gateway_world import Gateway, StartGateway, name
from tests.waiting import until

pytestmark = pytest.mark.stack

METADATA = {"ldo_id": "a", "sensor_data": {}, "context": {}, "prediction": {}}


@pytest.fixture(scope="module")
def trusting(service_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    log = tmp_path_factory.mktemp("trusting") / "gateway.log"
    changes = {"gateway_trust": "127.0.0.0/8,other=10.4.0.0/16", "gateway_site": "plant"}
    with Gateway(
        service_settings, log, gateway_ingest_per_minute=1000, gateway_camera_networks="127.0.0.0/8", **changes
    ) as gateway:
        yield gateway


def picture() -> bytes:
    out = BytesIO()
    Image.effect_noise((64, 48), 90).save(out, "JPEG")
    return out.getvalue()


def test_an_ldo_as_requests_sends_it_without_a_video(trusting: Gateway) -> None:
    source = name("device")
    said = METADATA | {"context": {"device_id": source}}
    with trusting.anonymous() as client:
        as_form = client.post("/ingest/ldo", data={"metadata": json.dumps(said)})
        as_parts = client.post("/ingest/ldo", files={"metadata": (None, json.dumps(said | {"ldo_id": "b"}))})
        listed = client.get("/ingest/list", params={"skip": 0, "limit": 2}).json()
    assert (as_form.status_code, as_parts.status_code) == (200, 200), as_form.text
    sizes = {answer.json()["id"]: answer.json()["size_bytes"] for answer in (as_form, as_parts)}
    assert {ldo["id"]: ldo["size_bytes"] for ldo in listed["ldos"]} == sizes
    assert trusting.rows("select distinct site from records where source_id = %s", source) == [("plant",)]


def test_large_metadata_as_a_form(trusting: Gateway) -> None:
    said = METADATA | {"sensor_data": {"text": "ü" * 200_000}, "context": {"device_id": name("device")}}
    with trusting.anonymous() as client:
        answer = client.post("/ingest/ldo", data={"metadata": json.dumps(said, ensure_ascii=False)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["size_bytes"] > 400_000


@pytest.mark.parametrize("how", ["data", "json", "files"])
def test_a_scan_as_a_form_as_parts_and_as_json(trusting: Gateway, how: str) -> None:
    device = name("scanner")
    fields = {"cid": "PART-1", "device_id": device, "operator": "passed over"}
    body = {key: (None, value) for key, value in fields.items()} if how == "files" else fields
    with trusting.anonymous() as client:
        answer = client.post("/cid", **{how: body})
    assert answer.status_code == 200, answer.text
    assert trusting.rows("select code from records where source_id = %s", device) == [("PART-1",)]


@pytest.mark.parametrize("body", [b"[1]", b'{"cid": 1, "device_id": "a"}', b"{", b'{"cid": "' + b"a" * 20_000 + b'"}'])
def test_a_scan_in_other_json_is_refused_with_its_reason(trusting: Gateway, body: bytes) -> None:
    with trusting.anonymous() as client:
        answer = client.post("/cid", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in {400, 413, 422}
    assert answer.json()["detail"]


def test_pictures_of_a_camera_and_the_state_of_the_request(trusting: Gateway) -> None:
    camera = name("camera")
    with trusting.anonymous() as client:
        answer = client.post(
            "/api/v1/ingest/upload", data={"camera_id": camera}, files=[("files", ("a.jpg", picture(), "image/jpeg"))]
        )
        assert answer.status_code == 201, answer.text
        state = client.get(f"/api/v1/ingest/status/{answer.json()['request_id']}")
    assert (state.status_code, state.json()["status"], state.json()["kind"]) == (200, "ingested", "upload")


def test_a_single_bad_file_is_answered_like_any_other(trusting: Gateway) -> None:
    with trusting.anonymous() as client:
        answer = client.post(
            "/api/v1/ingest/upload", data={"camera_id": name("camera")}, files=[("files", ("a.txt", b"no picture"))]
        )
        body = answer.json()
        state = client.get(f"/api/v1/ingest/status/{body['request_id']}").json()
    assert (answer.status_code, body["status"]) == (422, "failed")
    [file] = body["files"]
    assert (file["filename"], file["status"], file["error"]["code"]) == ("a.txt", "failed", "not_an_image")
    assert (state["status"], state["errors"][0]["code"]) == ("failed", "not_an_image")


def test_a_capture_of_a_camera(trusting: Gateway) -> None:
    asked = {
        "rtsp_url": "rtsp://127.0.0.1:9/stream",
        "camera_id": name("camera"),
        "capture_mode": "single_frame",
        "retry_count": 3,  # unknown, and passed over
    }
    with trusting.anonymous() as client:
        answer = client.post("/api/v1/ingest/rtsp", json=asked)
    assert answer.status_code == 202, answer.text
    assert answer.json().keys() == {"request_id", "status", "status_url"}


def test_a_file_and_the_probes(trusting: Gateway) -> None:
    with trusting.anonymous() as client:
        assert client.post("/ingest", files={"file": ("a.jpg", picture(), "image/jpeg")}).status_code == 200
        for path in ("/health", "/ready", "/metrics", "/docs", "/redoc", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_names_of_the_old_openapi_document(trusting: Gateway) -> None:
    schemas = httpx.get(f"{trusting.url}/openapi.json").json()["components"]["schemas"]
    assert schemas.keys() >= {
        *("IngestionResponse", "FrameInfo", "HealthCheckResponse", "RTSPIngestionRequest", "UploadIngestionRequest"),
        *("SourceType", "CaptureMode", "IngestionStatus"),
    }
    assert schemas["CaptureMode"]["enum"] == ["single_frame", "burst", "continuous", "clip"]


def test_it_is_a_device_of_one_site_and_in_the_audit_log(trusting: Gateway) -> None:
    with trusting.anonymous() as client:
        other = client.post("/cid", data={"cid": "A", "device_id": "b", "site": "other"})
        configured = client.post("/api/v1/cameras", json={"camera_id": "a"})
        assert client.post("/cid", data={"cid": "A", "device_id": name("scanner")}).status_code == 200
    assert (other.status_code, configured.status_code) == (403, 403)
    query = "select count(*) from audit where actor = 'trusted:127.0.0.1' and action = 'POST /cid' and code is null"
    until(lambda: trusting.rows(query) != [(0,)], 10, "the audit log")
    assert '"event": "trusted"' in trusting.log.read_text()


@pytest.mark.parametrize("headers", [{"Origin": "http://127.0.0.1"}, {"Sec-Fetch-Site": "none"}])
def test_a_browser_needs_a_key(trusting: Gateway, headers: dict[str, str]) -> None:
    with trusting.anonymous() as client:
        assert client.post("/cid", data={"cid": "A", "device_id": "b"}, headers=headers).status_code == 401


def test_a_key_that_is_wrong_is_not_trusted(trusting: Gateway) -> None:
    with trusting.anonymous() as client:
        assert client.get("/ingest/list", headers={"X-API-Key": "hr_a_b"}).status_code == 401


def test_another_network_needs_a_key(start_gateway: StartGateway) -> None:
    with start_gateway(gateway_trust="10.0.0.0/8").anonymous() as client:
        assert client.get("/ingest/list").status_code == 401
