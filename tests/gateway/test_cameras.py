"""Camera configurations: created, read, changed, deleted, and nobody's change lost behind another's."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.gateway.gateway_world import Gateway, name

pytestmark = pytest.mark.stack

CANARY = "canary-7f3a"
SITE = name("plant")
SETTINGS = {
    "fps": 12.5,
    "jpeg_quality": 90,
    "resolution": {"width": 1920, "height": 1080},
    "rtsp_url": "rtsp://10.0.0.7:554/stream1?channel=2",
    "extra": {"lens": "6 mm", "zones": [[0, 1], None]},
}
CALIBRATION = {
    "camera_matrix": [[1000.5, 0, 960], [0, 1000.5, 540], [0, 0, 1]],
    "distortion_coefficients": [-0.3, 0.1, 0, 0, 0.01],
    "image_width": 1920,
    "image_height": 1080,
    "reprojection_error": 0.21,
    "calibrated_at": "2026-01-31T12:00:00Z",
}


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> Iterator[httpx.Client]:
    with gateway.client("operator") as opened:
        yield opened


def added(client: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/api/v1/cameras", json={"camera_id": name("cam"), "site": SITE} | more)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def path(camera: dict[str, Any]) -> str:
    return f"/api/v1/cameras/{quote(camera['camera_id'], safe='')}?site={quote(camera['site'], safe='')}"


def test_a_configuration_comes_back_as_it_was_given(client: httpx.Client) -> None:
    answer = client.post(
        "/api/v1/cameras",
        json={"camera_id": name("cam"), "site": SITE, "settings": SETTINGS, "calibration": CALIBRATION},
    )
    assert (answer.status_code, answer.headers["etag"]) == (201, '"1"')
    said = answer.json()
    assert (said["settings"], said["calibration"], said["version"]) == (SETTINGS, CALIBRATION, 1)
    again = client.get(answer.headers["location"])
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, said, '"1"')


def test_what_is_left_out_is_not_made_up(client: httpx.Client) -> None:
    camera = added(client, settings={"fps": 5})
    assert (camera["settings"], camera["calibration"]) == ({"fps": 5}, None)


def test_a_camera_is_configured_once(client: httpx.Client) -> None:
    camera = added(client)
    answer = client.post("/api/v1/cameras", json={"camera_id": camera["camera_id"], "site": SITE})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_an_id_alone_is_of_the_gateways_own_site(gateway: Gateway, client: httpx.Client) -> None:
    camera_id = name("cam")
    assert client.post("/api/v1/cameras", json={"camera_id": camera_id}).json()["site"] == gateway.settings.gateway_site
    assert client.get(f"/api/v1/cameras/{camera_id}").json()["camera_id"] == camera_id


def test_any_name_that_a_source_may_have_will_do(client: httpx.Client) -> None:
    camera = added(client, camera_id=f"{name('hall')}/door 1 é?#%", site=f"{SITE}/north")
    assert client.get(path(camera)).json() == camera
    assert client.delete(path(camera)).status_code == 204


def test_a_change_counts_the_version_and_a_lost_update_is_refused(client: httpx.Client) -> None:
    camera = added(client, settings=SETTINGS)
    first = client.put(path(camera), json={"settings": {"fps": 1}}, headers={"If-Match": '"1"'})
    assert (first.status_code, first.headers["etag"]) == (200, '"2"')
    assert (first.json()["settings"], first.json()["version"]) == ({"fps": 1}, 2)
    for tag in ('"1"', 'W/"2"', '"x"', '"99999999999"'):
        late = client.put(path(camera), json={"settings": {"fps": 2}}, headers={"If-Match": tag})
        assert (late.status_code, late.json()["code"], late.headers["etag"]) == (412, "precondition_failed", '"2"')
        assert client.delete(path(camera), headers={"If-Match": tag}).status_code == 412
    assert client.get(path(camera)).json()["settings"] == {"fps": 1}
    assert client.put(path(camera), json={}, headers={"If-Match": '"1", "2"'}).json()["version"] == 3
    assert client.put(path(camera), json={}).json()["version"] == 4
    assert client.delete(path(camera), headers={"If-Match": '"4"'}).status_code == 204
    for gone in (client.get(path(camera)), client.put(path(camera), json={}), client.delete(path(camera))):
        assert gone.status_code == 404


def test_the_version_that_the_caller_has_is_not_sent_again(client: httpx.Client) -> None:
    camera = added(client)
    assert client.get(path(camera), headers={"If-None-Match": '"1"'}).status_code == 304
    client.put(path(camera), json={})
    assert client.get(path(camera), headers={"If-None-Match": '"1"'}).status_code == 200


def test_cameras_are_listed_page_by_page(client: httpx.Client) -> None:
    site = name("plant")
    wanted = sorted(added(client, site=site)["camera_id"] for _ in range(5))
    seen: list[str] = []
    cursor = None
    while True:
        filters = {"site": site, "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get("/api/v1/cameras", params=filters).json()
        seen += [one["camera_id"] for one in page["cameras"]]
        if (cursor := page["cursor"]) is None:
            break
    assert seen == wanted
    for junk in ("!", "e30", "WyJhIl0", "W10"):
        assert client.get("/api/v1/cameras", params={"cursor": junk}).status_code == 422


def matrix(value: object) -> dict[str, Any]:
    return {"calibration": CALIBRATION | {"camera_matrix": value}}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"settings": {"fps": 0}}, "settings.fps"),
        ({"settings": {"fps": "5"}}, "settings.fps"),
        ({"settings": {"fps": True}}, "settings.fps"),
        ({"settings": {"jpeg_quality": 101}}, "settings.jpeg_quality"),
        ({"settings": {"resolution": {"width": 0, "height": 1}}}, "settings.resolution.width"),
        ({"settings": {"colour": 1}}, "settings.colour"),
        ({"version": 3}, "version"),
        ({"settings": {"rtsp_url": "http://10.0.0.7/"}}, "settings.rtsp_url"),
        ({"settings": {"rtsp_url": "rtsp://h/x -f lavfi -i y"}}, "settings.rtsp_url"),
        ({"settings": {"rtsp_url": "rtsp://h:port/"}}, "settings.rtsp_url"),
        (matrix([[1, 0], [0, 1]]), "calibration.camera_matrix"),
        (matrix([[1, 0, 0]] * 2), "calibration.camera_matrix"),
        ({"calibration": CALIBRATION | {"distortion_coefficients": [0, 0, 0]}}, "distortion_coefficients"),
        ({"calibration": CALIBRATION | {"distortion_coefficients": [0] * 15}}, "distortion_coefficients"),
        ({"calibration": CALIBRATION | {"reprojection_error": -1}}, "calibration.reprojection_error"),
        ({"calibration": CALIBRATION | {"calibrated_at": "2026-01-31T12:00:00"}}, "calibration.calibrated_at"),
        ({"calibration": {}}, "calibration.camera_matrix"),
    ],
)
def test_a_wrong_field_is_named(client: httpx.Client, body: dict[str, Any], where: str) -> None:
    answer = client.post("/api/v1/cameras", json={"camera_id": name("cam"), "site": SITE} | body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), answer.text
    assert any(where in one["field"] for one in answer.json()["errors"])


@pytest.mark.parametrize(
    "settings",
    [
        {"rtsp_url": f"rtsp://admin:{CANARY}@10.0.0.7/stream"},
        {"rtsp_url": f"rtsp://{CANARY}@10.0.0.7/"},
        {"rtsp_url": f"rtsp://admin:12/{CANARY}@10.0.0.7/"},
        {"rtsp_url": f"rtsp://10.0.0.7/s?user=a&Password={CANARY}"},
        {"extra": {"deep": [{"snapshot": f"http://admin:{CANARY}@10.0.0.7/jpg"}]}},
    ],
)
def test_a_login_is_not_kept_with_a_camera(gateway: Gateway, client: httpx.Client, settings: dict[str, Any]) -> None:
    camera = added(client)
    answer = client.put(path(camera), json={"settings": settings})
    assert answer.status_code == 422, answer.text
    assert "capture request" in answer.text
    assert CANARY not in answer.text
    assert client.get(path(camera)).json()["version"] == 1
    assert CANARY not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"camera_id":"c","settings":{"extra":{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}}}", 413),
        (b'{"camera_id":"c","settings":{"extra":{"a":' + b"[" * 300 + b"]" * 300 + b"}}}", 422),
        (b'{"camera_id":"c","settings":{"fps":1e400}}', 422),
        (b'{"camera_id":"c","settings":{"fps":NaN}}', 422),
        (b'{"camera_id":"c","settings":{"extra":{"a":"\\u0000"}}}', 422),
        (b'{"camera_id":"c","settings":{"extra":{"a":"\\ud800"}}}', 422),
        (b'{"camera_id":"c","site":"a\\nb"}', 422),
        (b'{"camera_id":""}', 422),
        (b"{}", 422),
        (b"[]", 422),
        (b"", 422),
        (b'{"camera_id":"c","settings":{"extra":{"a":"' + b"x" * 65_536 + b'"}}}', 413),
    ],
)
def test_hostile_json_is_refused(client: httpx.Client, body: bytes, status: int) -> None:
    answer = client.post("/api/v1/cameras", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert client.get("/api/v1/cameras").status_code == 200


def test_a_body_that_is_no_json_is_refused(client: httpx.Client) -> None:
    assert client.post("/api/v1/cameras", content=b"{}", headers={"Content-Type": "text/plain"}).status_code == 415


def test_a_camera_is_read_by_its_own_device_and_written_by_operators(gateway: Gateway, client: httpx.Client) -> None:
    mine, other = added(client), added(client)
    with gateway.client("device", [f"{SITE}/{mine['camera_id']}"]) as device:
        # Its site need not be said: the key has only one.
        assert device.get(f"/api/v1/cameras/{mine['camera_id']}").json() == mine
        assert device.get(path(other)).status_code == 404
        assert [one["camera_id"] for one in device.get("/api/v1/cameras").json()["cameras"]] == [mine["camera_id"]]
        assert device.put(path(mine), json={}).status_code == 403
        assert device.delete(path(mine)).status_code == 403
        assert device.post("/api/v1/cameras", json={"camera_id": "x"}).status_code == 403
    with gateway.client("operator", [f"{name('plant')}/*"]) as elsewhere:
        assert elsewhere.get(path(mine)).status_code == 404
        assert elsewhere.put(path(mine), json={}).status_code == 403
        assert elsewhere.delete(path(mine)).status_code == 403
        assert elsewhere.get("/api/v1/cameras").json() == {"cameras": [], "cursor": None}
    assert client.get(path(mine)).json()["version"] == 1
