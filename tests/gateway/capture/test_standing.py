"""Standing captures: a camera is captured until it is removed, request after request."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

from headrace.gateway.capture.camera_url import CredentialCipher, parse_camera_url
from headrace.gateway.capture.capture_request import CaptureMode, CapturePlan, CaptureState, standing_plan
from headrace.gateway.capture.request_topic import CaptureRequestPublisher
from headrace.gateway.capture.standing import REMOVED, successor_id, successor_of
from headrace.gateway.capture.stream_probe import STAGES, probe_stream
from headrace.runtime.settings import Settings, load_settings
from headrace.store.requests.ingest_requests import IngestRequest, IngestRequests, NewRequest
from tests.gateway.gateway_world import Gateway, name
from tests.gateway.rtsp_server import FakeCamera
from tests.processes import ServiceProcess, free_port
from tests.servers import pool_of
from tests.waiting import until

NETWORK = "127.0.0.0/8"
URL = "rtsp://user:pass%40word@camera.example/stream"


def request_of(plan: CapturePlan, request_id: UUID, sealed: bytes | None = None) -> IngestRequest:
    return IngestRequest(
        request_id, "rtsp", "key:a", "plant", "cam-1", "recording", None, plan.as_json(), sealed, "{}", 0.0, 0.0
    )


def test_the_login_is_encrypted_anew_for_the_successor() -> None:
    cipher, url, request_id = CredentialCipher("s" * 32), parse_camera_url(URL), uuid4()
    request = request_of(standing_plan(url.redacted, 5.0), request_id, cipher.encrypt(request_id, url))
    successor = successor_of(request, cipher)
    assert successor is not None
    assert successor.request_id == successor_id(request_id) != request_id
    assert (successor.state, successor.asked) == (CaptureState.REQUESTED, request.asked)
    assert successor.sealed is not None
    assert cipher.decrypt(successor.request_id, successor.sealed, parse_camera_url(url.redacted)).login == url.login


def test_a_plan_of_an_earlier_version_does_not_stand() -> None:
    old = CapturePlan(url="rtsp://c/s", mode=CaptureMode.CONTINUOUS, fps=1, duration_s=60, frame_count=0)
    text = old.as_json().replace(',"standing":false', "")
    assert CapturePlan.from_json(text) == old
    assert successor_of(request_of(old, uuid4()), None) is None


@pytest.mark.server
async def test_a_stream_is_tested_up_to_its_first_frame() -> None:
    settings = load_settings(_env_file=None, gateway_camera_networks=NETWORK, capture_confinement="off")
    with FakeCamera() as camera:
        results = await probe_stream(camera.url(), settings, site="plant")
    assert [(result.stage, result.ok) for result in results] == [(stage, True) for stage in STAGES]
    assert results[3].detail == "h264, 320x240"


@pytest.mark.server
async def test_each_stage_that_fails_has_a_hint() -> None:
    settings = load_settings(_env_file=None, gateway_camera_networks=NETWORK, capture_confinement="off")
    with FakeCamera(user="user", password="right") as camera:
        login = await probe_stream(camera.url("user:wrong@"), settings, site="plant")
    connection = await probe_stream(f"rtsp://127.0.0.1:{free_port()}/s", settings, site="plant")
    private = await probe_stream("rtsp://127.0.0.1/s", load_settings(_env_file=None), site="plant")
    failed = [results[-1] for results in (login, connection, private)]
    assert [(result.stage, result.ok) for result in failed] == [
        ("login", False),
        ("connection", False),
        ("name", False),
    ]
    assert "user and password" in failed[0].hint
    assert "port" in failed[1].hint
    assert "HEADRACE_GATEWAY_CAMERA_NETWORKS" in failed[2].hint


@pytest.fixture(scope="module")
def gateway(service_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway and a capture worker that may reach cameras on this machine."""
    folder = tmp_path_factory.mktemp("standing")
    with Gateway(service_settings, folder / "gateway.log", gateway_camera_networks=NETWORK) as opened:
        worker = ServiceProcess(
            service_settings, "capture", log=folder / "capture.log", gateway_camera_networks=NETWORK, kafka_session_s=6
        )
        try:
            worker.wait_ready()
            yield opened
        finally:
            assert worker.stop() == 0


def captures(client: Any) -> dict[str, Any]:
    return {row["camera_id"]: row for row in client.get("/api/v1/captures").json()["captures"]}


@pytest.mark.stack
def test_a_camera_is_captured_until_it_is_removed(gateway: Gateway) -> None:
    camera_id = name("camera")
    with gateway.client("operator") as client, FakeCamera() as camera:
        body = {"rtsp_url": camera.url(), "camera_id": camera_id, "capture_mode": "continuous", "standing": True}
        answer = client.post("/api/v1/ingest/rtsp", json=body)
        assert answer.status_code == 202, answer.text
        again = client.post("/api/v1/ingest/rtsp", json=body)
        assert (again.status_code, again.json()["code"]) == (409, "conflict")
        until(lambda: captures(client)[camera_id]["frames"] > 0, 60, "the first frame")
        assert captures(client)[camera_id]["state"] == "recording"
        assert client.delete(f"/api/v1/captures/{camera_id}").status_code == 204
        assert camera_id not in captures(client)
        assert client.delete(f"/api/v1/captures/{camera_id}").status_code == 404
        request_id = answer.json()["request_id"]
    rows = gateway.rows("select state, reason from ingest_requests where request_id = %s", request_id)
    assert rows == [("failed", REMOVED)]
    assert gateway.rows("select from ingest_requests where request_id = %s", successor_id(UUID(request_id))) == []


@pytest.mark.stack
def test_a_request_that_ends_is_followed_by_the_next(gateway: Gateway) -> None:
    camera_id, request_id = name("camera"), uuid4()
    with gateway.client("operator") as client, FakeCamera() as camera:
        plan = CapturePlan(
            url=camera.url(), mode=CaptureMode.CONTINUOUS, fps=5, duration_s=2, frame_count=0, standing=True
        )
        asyncio.run(dispatch(gateway.settings, plan, request_id, camera_id))
        following = successor_id(request_id)

        def states() -> dict[UUID, str]:
            ids = [request_id, following]
            return dict(gateway.rows("select request_id, state from ingest_requests where request_id = any(%s)", ids))  # type: ignore[arg-type]

        until(lambda: states().get(following) in {"recording", "uploading", "ingested"}, 60, "the successor")
        assert states()[request_id] == "ingested"
        assert client.delete(f"/api/v1/captures/{camera_id}", params={"site": "plant"}).status_code == 204
        assert camera_id not in captures(client)


async def dispatch(settings: Settings, plan: CapturePlan, request_id: UUID, camera_id: str) -> None:
    dsn = settings.postgres_dsn.get_secret_value()
    request = NewRequest(
        request_id=request_id,
        kind="rtsp",
        actor="test",
        site="plant",
        source_id=camera_id,
        state=CaptureState.REQUESTED,
        asked=plan.as_json(),
    )
    publisher = CaptureRequestPublisher(settings)
    async with pool_of(dsn) as pool:
        await IngestRequests(pool, dsn).add(request)
    await publisher.publish(request)
    await asyncio.to_thread(publisher.close)
