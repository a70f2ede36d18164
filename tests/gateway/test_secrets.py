"""A password in addresses, headers and metadata: refused or passed over, and kept nowhere."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from headrace.gateway.credential_filter import refuse_credentials
from tests.gateway.canary import CANARY, logs_with, tables_with, topics_with
from tests.gateway.gateway_world import Gateway, name, picture
from tests.gateway.hostile_http import form, head, part, send, status
from tests.gateway.live_world import receive, websocket
from tests.gateway.tus_client import PATH, metadata

pytestmark = pytest.mark.stack

LOGIN = f"rtsp://admin:{CANARY}@10.0.0.7/stream"
BASIC = base64.b64encode(f"admin:{CANARY}".encode()).decode()


def ldo(**changes: Any) -> dict[str, tuple[None, str]]:
    said = {"ldo_id": name("ldo"), "sensor_data": {}, "context": {}, "prediction": {}, **changes}
    return {"metadata": (None, json.dumps(said))}


def ldo_twice() -> dict[str, tuple[None, str]]:
    said = ldo(context={"": 0})["metadata"][1]
    return {"metadata": (None, said.replace('"": 0', f'"password": "{CANARY}", "password": ""'))}


def tus(client: httpx.Client, **said: str) -> httpx.Response:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": metadata(**said)}
    return client.post(PATH, headers=headers)


Call = Callable[[httpx.Client], httpx.Response]
CALLS: dict[str, tuple[int, Call]] = {
    "key in the address": (400, lambda client: client.get(f"/api/v1/records?api_key={CANARY}")),
    "password in the address": (400, lambda client: client.get("/ingest/list", params={"password": CANARY})),
    "login in a source's filter": (200, lambda client: client.get("/api/v1/records", params={"source_id": LOGIN})),
    "login as a digest": (404, lambda client: client.get(f"/api/v1/receipts/admin:{CANARY}@host")),
    "unknown key": (401, lambda client: client.get("/api/v1/records", headers={"X-API-Key": f"hr_{CANARY}_{CANARY}"})),
    "unknown token": (401, lambda client: client.get("/api/v1/records", headers=bearer(CANARY))),
    "login of HTTP": (401, lambda client: client.get("/api/v1/records", headers={"Authorization": f"Basic {BASIC}"})),
    "cookie": (200, lambda client: client.get("/api/v1/records", headers={"Cookie": f"session={CANARY}"})),
    "referrer": (200, lambda client: client.get("/api/v1/records", headers={"Referer": LOGIN})),
    "client's secret": (401, lambda client: client.post("/oauth/token", data=grant(client_secret=CANARY))),
    "client's id": (401, lambda client: client.post("/oauth/token", data=grant(client_id=f"hr_{CANARY}"))),
    "camera of a capture": (422, lambda client: client.post("/api/v1/ingest/rtsp", json=capture(LOGIN))),
    "name of a capture's camera": (422, lambda client: client.post("/api/v1/ingest/rtsp", json=capture("", LOGIN))),
    "settings of a camera": (422, lambda client: client.post("/api/v1/cameras", json=camera(LOGIN))),
    "an LDO's context": (422, lambda client: client.post("/ingest/ldo", files=ldo(context={"camera": LOGIN}))),
    "an LDO's password": (422, lambda client: client.post("/ingest/ldo", files=ldo(context={"Password": CANARY}))),
    "a number as a password": (422, lambda client: client.post("/ingest/ldo", files=ldo(context={"pwd": 1234}))),
    "a password with a slash": (
        422,
        lambda client: client.post("/ingest/ldo", files=ldo(context={"a": f"rtsp://admin:a/{CANARY}@10.0.0.7"})),
    ),
    "a password that comes twice": (422, lambda client: client.post("/ingest/ldo", files=ldo_twice())),
    "an LDO's source": (422, lambda client: client.post("/ingest/ldo", files=ldo(source_id=LOGIN))),
    "a scan's device": (422, lambda client: client.post("/cid", data={"cid": "C-1", "device_id": LOGIN})),
    "a frame's source": (
        422,
        lambda client: client.post("/ingest", data={"source_id": LOGIN}, files={"file": picture()}),
    ),
    "a field that nobody asks for": (
        200,
        lambda client: client.post("/ingest", data={"password": CANARY}, files={"file": picture()}),
    ),
    "a name that is a login": (200, lambda client: client.post("/ingest", files={"file": (LOGIN[:-7], picture())})),
    "a file's name": (200, lambda client: client.post("/ingest", files={"file": (f"{LOGIN}/a.jpg", picture())})),
    "a resumable upload's password": (422, lambda client: tus(client, password=CANARY)),
    "a resumable upload's camera": (422, lambda client: tus(client, about=LOGIN)),
}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def grant(**said: str) -> dict[str, str]:
    return {"grant_type": "client_credentials", "client_id": "hr_0", "client_secret": "x"} | said


def capture(url: str, camera_id: str = "") -> dict[str, str]:
    return {"rtsp_url": url or "rtsp://10.0.0.7/", "camera_id": camera_id or "camera", "capture_mode": "burst"}


def camera(url: str) -> dict[str, Any]:
    return {"camera_id": name("camera"), "settings": {"extra": {"snapshot": url}}}


@pytest.mark.parametrize("where", CALLS)
def test_a_password_is_kept_nowhere_wherever_it_stands(gateway: Gateway, where: str) -> None:
    wanted, call = CALLS[where]
    with gateway.client("operator") as client:
        answer = call(client)
    assert answer.status_code == wanted, answer.text
    assert CANARY not in answer.text
    assert CANARY not in str(answer.headers)
    nowhere(gateway)


def test_neither_is_one_in_what_no_call_takes(gateway: Gateway) -> None:
    sent = form(part(picture(), extra=f"X-Password: {CANARY}\r\n".encode()))
    key = gateway.key()
    answer = send(gateway.url, [head("/ingest", key, f"Content-Length: {len(sent)}", f"X-Note: {CANARY}"), sent])
    assert status(answer) == 200
    assert CANARY.encode() not in answer
    proxied = send(gateway.url, [head(f"http://admin:{CANARY}@127.0.0.1/health", key, method="GET")])
    assert 400 <= status(proxied) < 500
    assert CANARY.encode() not in proxied
    nowhere(gateway)


def test_nor_one_in_a_feed(gateway: Gateway) -> None:
    with pytest.raises(InvalidStatus) as refused:
        websocket(gateway, f"/ws/events?token={CANARY}", gateway.key())
    assert refused.value.response.status_code == 400
    with pytest.raises(InvalidStatus) as refused:
        websocket(gateway, "/ws/events", None, subprotocols=["headrace.v1", f"bearer.{CANARY}"])
    assert refused.value.response.status_code == 401
    with websocket(gateway, "/ws/ingest", gateway.key()) as feed:
        receive(feed)
        about = {"type": "ldo", "seq": 1, "source_id": "camera", "ldo_id": "ldo", "sensor_data": {}, "prediction": {}}
        feed.send(json.dumps({**about, "context": {"camera": LOGIN}}))
        answer = receive(feed)
    assert (answer["type"], answer["code"]) == ("refused", "holds_login")
    assert CANARY not in json.dumps(answer)
    nowhere(gateway)


def nowhere(gateway: Gateway) -> None:
    """What the end of all tests looks for too, but here it is known where it came from."""
    assert tables_with(gateway) == []
    assert logs_with([gateway.log.parent]) == []
    assert CANARY not in httpx.get(f"{gateway.url}/metrics").text


def test_the_search_finds_what_is_there(gateway: Gateway, tmp_path: Path) -> None:
    with gateway.client() as client:
        source = name("camera")
        request = client.post("/ingest", data={"source_id": source}, files={"file": picture()})
        assert request.status_code == 200, request.text
    assert "records" in tables_with(gateway, source)
    assert topics_with(gateway.settings, "no such text") == []
    (tmp_path / "a.log").write_text(source)
    assert logs_with([tmp_path], source) == [str(tmp_path / "a.log")]


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org?mail=a@b.c",
        "http://host:8080/who?mail=a@b.c",
        "https://medium.com/@user",
        "a@b.c",
        "http://[::1]:80/a@b",
        "s3://bucket/key@2x.png",
        "rtsp://10.0.0.7:554/stream",
    ],
)
def test_an_address_without_a_login_is_data(address: str) -> None:
    refuse_credentials({"context": {"seen at": [address]}}, "metadata")


def test_a_text_made_to_be_searched_for_hours_is_not() -> None:
    refuse_credentials({"context": "a@b " + "://a:b" * 170_000}, "metadata")
