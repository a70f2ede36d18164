"""`POST /api/v1/ingest/rtsp` through a running gateway and capture worker, with real streams and broken cameras."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from headrace.gateway.capture.capture_request import CaptureMode, plan_for
from headrace.gateway.capture.request_topic import CaptureRequestPublisher
from headrace.runtime.settings import Settings
from headrace.store.requests.ingest_requests import NewRequest
from tests.gateway.canary import CANARY, ProcessWatch, tables_with, topics_with
from tests.gateway.gateway_world import Gateway, name
from tests.gateway.rtsp_server import FakeCamera
from tests.processes import ServiceProcess, free_port
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

PASSWORD = f"{CANARY}@:/%#"
CAMERA_NETWORK = "127.0.0.0/9, elsewhere=127.128.0.0/9"
END_S_MAX = 360.0
ENDS = ("ingested", "failed")


class World:
    """A gateway and a capture worker, and the stored state of requests."""

    def __init__(self, gateway: Gateway, worker: ServiceProcess) -> None:
        self.gateway = gateway
        self.worker = worker
        self.client = gateway.client("operator")

    def ask(self, url: str, mode: str = "single_frame", **more: Any) -> UUID:
        body = {"rtsp_url": url, "camera_id": name("camera"), "capture_mode": mode, **more}
        answer = self.client.post("/api/v1/ingest/rtsp", json=body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["status"] == "requested"
        return UUID(answer.json()["request_id"])

    def state(self, request_id: UUID) -> tuple[str, str | None, dict[str, Any]]:
        [row] = self.gateway.rows(
            "select state, reason, evidence from ingest_requests where request_id = %s", request_id
        )
        return row[0], row[1], row[2]

    def end(self, request_id: UUID) -> tuple[str, str | None, dict[str, Any]]:
        until(lambda: self.state(request_id)[0] in ENDS, END_S_MAX, f"{request_id} to end")
        return self.state(request_id)

    def reached(self, request_id: UUID, state: str) -> None:
        until(lambda: self.state(request_id)[0] == state, 60, f"{request_id} to be {state}")

    def states(self, request_id: UUID) -> list[str]:
        rows = self.gateway.rows("select state from request_events where request_id = %s order by id", request_id)
        return [row[0] for row in rows]

    def catalogued(self, request_id: UUID) -> list[tuple[str, int | None, int | None, str]]:
        """Kind and size of each catalogued item, and the source of its sighting."""
        return self.gateway.rows(
            "select i.kind, i.width, i.height, s.source_id from request_items i join sightings s on s.topic = i.topic"
            ' and s.partition = i.partition and s."offset" = i."offset" join records r on r.record_id = s.record_id'
            " and r.digest = i.digest where i.request_id = %s order by i.index",
            request_id,
        )


@pytest.fixture(scope="module")
def world(service_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("rtsp")
    with Gateway(service_settings, folder / "gateway.log", gateway_camera_networks=CAMERA_NETWORK) as gateway:
        worker = ServiceProcess(
            service_settings,
            "capture",
            log=folder / "capture.log",
            gateway_camera_networks=CAMERA_NETWORK,
            capture_streams_max=24,
            kafka_session_s=6,
        )
        try:
            world = World(gateway, worker.wait_ready())
            with world.client:
                yield world
        finally:
            assert worker.stop() == 0


def test_a_single_frame_is_captured_and_in_the_catalog(world: World) -> None:
    with FakeCamera() as camera:
        request_id = world.ask(camera.url())
        state, reason, evidence = world.end(request_id)
    assert (state, reason) == ("ingested", None)
    assert world.states(request_id) == ["requested", "connecting", "recording", "uploading", "ingested"]
    assert [row[:3] for row in world.catalogued(request_id)] == [("frame", 320, 240)]
    assert (evidence["codec"], evidence["frames_got"], evidence["frames_published"]) == ("h264", 1, 1)


@pytest.mark.parametrize("login", [f"user:{PASSWORD}", f"user:{quote(PASSWORD, safe='')}"], ids=["raw", "encoded"])
def test_a_burst_from_a_camera_that_requires_a_login(world: World, login: str) -> None:
    with FakeCamera(user="user", password=PASSWORD) as camera:
        request_id = world.ask(camera.url(f"{login}@"), "burst", fps=10, frame_count=12)
        state, reason, evidence = world.end(request_id)
    assert (state, reason) == ("ingested", None)
    assert len(world.catalogued(request_id)) == 12
    assert evidence["frames_published"] == 12
    assert "401" not in camera.methods


def test_continuous_captures_frames_and_clip_captures_one_video(world: World) -> None:
    with FakeCamera() as camera:
        continuous = world.ask(camera.url(), "continuous", fps=4, duration_s=3)
        clip = world.ask(camera.url(), "clip", fps=10, duration_s=2)
        assert [world.end(request_id)[:2] for request_id in (continuous, clip)] == [("ingested", None)] * 2
    frames = world.catalogued(continuous)
    assert 2 <= len(frames) <= 14  # 12 at this rate, if the machine is fast enough
    assert [row[0] for row in world.catalogued(clip)] == ["clip"]
    [(kind, duration_us)] = world.gateway.rows(
        "select r.kind, r.duration_us from records r join request_items i on i.digest = r.digest"
        " where i.request_id = %s",
        clip,
    )
    assert kind == "clip"
    assert duration_us > 0


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"rtsp_url": "rtsp://h/x -f lavfi -i color=red"}, "url_refused"),
        ({"rtsp_url": "-i rtsp://h/x"}, "url_refused"),
        ({"rtsp_url": "-rtsp://h/x"}, "url_refused"),
        ({"rtsp_url": "rtsp://h/{id}"}, "url_refused"),
        ({"rtsp_url": "rtsp://h/`id`"}, "url_refused"),
        ({"rtsp_url": "rtsp://h/a|b"}, "url_refused"),
        ({"rtsp_url": "file:///etc/passwd"}, "url_refused"),
        ({"rtsp_url": "rtsp://10.0.0.1/x"}, "address_refused"),
        ({"rtsp_url": "rtsp://192.168.1.1/x"}, "address_refused"),
        ({"rtsp_url": "rtsp://169.254.169.254/x"}, "address_refused"),
        ({"rtsp_url": "rtsp://[::1]/x"}, "address_refused"),
        ({"rtsp_url": "rtsp://[::ffff:10.0.0.1]/x"}, "address_refused"),
        ({"rtsp_url": "rtsp://no-such-camera.invalid/x"}, "address_refused"),
        ({"fps": 0.05}, "invalid"),
        ({"fps": 61}, "invalid"),
        ({"duration_s": 0}, "invalid"),
        ({"duration_s": 3601}, "invalid"),
        ({"frame_count": 0}, "invalid"),
        ({"frame_count": 1001}, "invalid"),
        ({"frame_count": 1.5}, "invalid"),
        ({"capture_mode": "timelapse"}, "invalid"),
        ({"capture_mode": "clip", "duration_s": 600}, "mode_unavailable"),
        ({"camera_id": ""}, "invalid"),
        ({"camera_id": "a\nb"}, "field_out_of_range"),
    ],
    ids=lambda value: next(iter(value.values())) if isinstance(value, dict) else value,
)
def test_an_invalid_request_is_refused_and_not_stored(world: World, wrong: dict[str, Any], code: str) -> None:
    camera_id = name("camera")
    body = {"rtsp_url": "rtsp://127.0.0.1/x", "camera_id": camera_id, "capture_mode": "burst"} | wrong
    answer = world.client.post("/api/v1/ingest/rtsp", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert not world.gateway.rows("select 1 from ingest_requests where source_id = %s", camera_id)


def test_the_network_of_another_sites_cameras_is_refused(world: World) -> None:
    url = f"rtsp://127.200.0.1:{free_port()}/x"
    for site in ("plant", "else", ""):
        body = {"rtsp_url": url, "camera_id": name("camera"), "capture_mode": "single_frame", "site": site or None}
        answer = world.client.post("/api/v1/ingest/rtsp", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "address_refused"), site
    request_id = world.ask(url, site="elsewhere")
    world.reached(request_id, "connecting")
    until(lambda: world.state(request_id)[2]["last_error"], 60, "the first connection to fail")
    assert world.state(request_id)[2]["last_error"] == "unreachable"
    # The worker checks again: what is no longer granted when it connects is not connected to.
    stored = asyncio.run(_published(world, CaptureRequestPublisher(world.gateway.settings), url))
    assert (world.end(stored)[1] or "").startswith("address_refused: ")


def test_a_capture_requires_an_operator_with_the_camera_in_scope(world: World) -> None:
    body = {"rtsp_url": "rtsp://127.0.0.1/x", "camera_id": "camera-1", "capture_mode": "burst"}
    for role, sources in (("device", ("*",)), ("operator", ("plant/other",))):
        with world.gateway.client(role, sources) as client:
            assert client.post("/api/v1/ingest/rtsp", json={**body, "site": "plant"}).status_code == 403


CASES = {
    "redirect_within": ({"fault": "redirect", "argument": "rtsp://127.0.0.1:{other}/stream"}, "failed", "redirected"),
    "redirect_hidden": (
        {"fault": "hidden_redirect", "argument": "rtsp://127.0.0.1:{other}/stream"},
        "failed",
        "not_rtsp",
    ),
    "redirect_file": ({"fault": "redirect", "argument": "file:///etc/passwd"}, "failed", "redirected"),
    "control_file": ({"fault": "control", "argument": "file:///etc/passwd"}, "failed", "description_refused"),
    "multicast": ({"fault": "multicast"}, "ingested", None),
    "disconnects_every_2_s": ({"fault": "drop"}, "ingested", None),
    "changes_its_size": ({"fault": "resize"}, "ingested", None),
    "time_wraps": ({"fault": "wrap"}, "ingested", None),
    "time_runs_backwards": ({"fault": "backwards"}, "ingested", None),
    "speaks_ssh": ({"fault": "not_rtsp"}, "failed", "not_rtsp"),
    "endless_head": ({"fault": "endless"}, "failed", "not_rtsp"),
    "no_such_stream": ({"fault": "missing"}, "failed", "stream_unknown"),
    "wrong_password": ({"user": "user", "password": "another"}, "failed", "login_refused"),
}
# Each connection to these is given up only when its time is over.
SLOW_CASES = {
    "never_answers": ({"fault": "mute"}, "failed", "silent"),
    "drips": ({"fault": "drip"}, "failed", "silent"),
    "picture_of_0_pixels": ({"fault": "sps", "argument": "0"}, None, None),
    "picture_of_100000_pixels": ({"fault": "sps", "argument": "6250"}, "failed", "undecodable"),
}


def outcomes_of(world: World, cases: Mapping[str, Any]) -> dict[str, Any]:
    """Capture from all broken cameras at once: each with its request; and one to which no redirect may lead."""
    with ExitStack() as stack:
        other = stack.enter_context(FakeCamera())
        requests = {}
        for case, (about, _, _) in cases.items():
            camera = stack.enter_context(
                FakeCamera(**{key: value.format(other=other.port) for key, value in about.items()})
            )
            # More frames than a camera sends before it disconnects, and enough time on a busy machine.
            login = f"user:{quote(PASSWORD, safe='')}@"
            requests[case] = world.ask(camera.url(login), "burst", fps=20, frame_count=60, duration_s=300)
        return {"other": other} | {case: (request_id, world.end(request_id)) for case, request_id in requests.items()}


@pytest.fixture(scope="module")
def outcomes(world: World) -> dict[str, Any]:
    return outcomes_of(world, CASES)


@pytest.fixture(scope="module")
def slow_outcomes(world: World) -> dict[str, Any]:
    return outcomes_of(world, SLOW_CASES)


@pytest.mark.parametrize("case", CASES)
def test_a_broken_camera_ends_with_its_reason_or_is_captured(world: World, outcomes: dict[str, Any], case: str) -> None:
    assert_outcome(world, CASES[case], case, outcomes[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW_CASES)
def test_a_camera_that_keeps_a_connection_waiting_ends_with_its_reason(
    world: World, slow_outcomes: dict[str, Any], case: str
) -> None:
    assert_outcome(world, SLOW_CASES[case], case, slow_outcomes[case])


def assert_outcome(world: World, expected: tuple[Any, str | None, str | None], case: str, outcome: Any) -> None:
    _, wanted, code = expected
    request_id, (state, reason, evidence) = outcome
    print(case, state, reason, json.dumps(evidence))
    assert wanted in {None, state}, reason
    assert code is None or reason.startswith(f"{code}: ")
    assert (state == "failed") == (reason is not None)
    if state == "ingested":
        assert len(world.catalogued(request_id)) == 60


def test_redirects_are_not_followed(outcomes: dict[str, Any]) -> None:
    assert outcomes["other"].connections == 0


def test_reconnects_are_recorded_in_the_progress(world: World, outcomes: dict[str, Any]) -> None:
    request_id, (_, _, evidence) = outcomes["disconnects_every_2_s"]
    assert evidence["reconnects"] >= 1
    assert evidence["last_error"] == "lost"
    assert world.states(request_id).count("connecting") == evidence["reconnects"] + 1


def test_frames_of_both_sizes_are_catalogued(world: World, outcomes: dict[str, Any]) -> None:
    request_id, _ = outcomes["changes_its_size"]
    assert {row[1:3] for row in world.catalogued(request_id)} == {(320, 240), (640, 480)}


def test_an_unreachable_camera_fails_with_its_reason(world: World) -> None:
    state, reason, evidence = world.end(world.ask(f"rtsp://127.0.0.1:{free_port()}/x"))
    assert (state, reason.split(":")[0]) == ("failed", "unreachable")
    assert evidence["reconnects"] >= 1


def test_another_worker_takes_over_from_a_killed_one(world: World) -> None:
    with FakeCamera() as camera:
        request_id = world.ask(camera.url(), "burst", fps=8, frame_count=40)
        world.reached(request_id, "recording")
        until(lambda: world.gateway.rows("select 1 from request_items where request_id = %s", request_id), 60, "frames")
        first = world.state(request_id)[2]["worker"]
        world.worker.kill()
        world.worker.restart()
        state, reason, evidence = world.end(request_id)
    assert (state, reason) == ("ingested", None)
    assert evidence["worker"] != first
    assert world.states(request_id).count("requested") == 2
    assert len(world.catalogued(request_id)) == 40


def test_a_stopping_worker_releases_its_jobs(world: World) -> None:
    with FakeCamera() as camera:
        request_id = world.ask(camera.url(), "continuous", fps=4, duration_s=8)
        world.reached(request_id, "recording")
        assert world.worker.stop(18) == 0
        assert world.state(request_id)[0] == "requested"
        world.worker.restart()
        assert world.end(request_id)[:2] == ("ingested", None)
    assert len(world.catalogued(request_id)) >= 2


def test_a_request_that_was_never_published_is_recovered(world: World) -> None:
    request_id = uuid4()
    with FakeCamera() as camera:
        plan = plan_for(camera.url(), CaptureMode.SINGLE_FRAME)
        world.gateway.rows(
            "insert into ingest_requests (request_id, kind, actor, site, source_id, state, asked, updated_at)"
            " values (%s, 'rtsp', 'test', 'plant', 'camera', 'requested', %s, now() - interval '1 hour') returning 1",
            request_id,
            plan.as_json(),
        )
        assert world.end(request_id)[:2] == ("ingested", None)


def test_a_redelivered_message_has_no_effect(world: World) -> None:
    with FakeCamera() as camera:
        request_id = world.ask(camera.url())
        world.end(request_id)
        before, connections = world.states(request_id), camera.connections
        plan = plan_for(camera.url(), CaptureMode.SINGLE_FRAME)
        again = NewRequest(
            request_id=request_id,
            kind="rtsp",
            actor="test",
            site="plant",
            source_id="camera",
            state="requested",
            asked=plan.as_json(),
        )
        request_publisher = CaptureRequestPublisher(world.gateway.settings)
        assert asyncio.run(request_publisher.publish(again))
        # A later request of the same camera follows it in the same partition.
        later = asyncio.run(_published(world, request_publisher, camera.url()))
        world.end(later)
    assert world.states(request_id) == before
    assert camera.connections == connections + 1


async def _published(world: World, request_publisher: CaptureRequestPublisher, url: str) -> UUID:
    request_id, plan = uuid4(), plan_for(url, CaptureMode.SINGLE_FRAME)
    world.gateway.rows(
        "insert into ingest_requests (request_id, kind, actor, site, source_id, state, asked)"
        " values (%s, 'rtsp', 'test', 'plant', 'camera', 'requested', %s) returning 1",
        request_id,
        plan.as_json(),
    )
    later = NewRequest(
        request_id=request_id,
        kind="rtsp",
        actor="test",
        site="plant",
        source_id="camera",
        state="requested",
        asked=plan.as_json(),
    )
    assert await request_publisher.publish(later)
    return request_id


def test_a_repeated_idempotency_key_is_one_request(world: World) -> None:
    headers = {"Idempotency-Key": uuid4().hex}
    url = f"rtsp://user:{PASSWORD}@127.0.0.1:{free_port()}/x"
    body = {"rtsp_url": url, "camera_id": name("camera"), "capture_mode": "single_frame"}
    answers = [world.client.post("/api/v1/ingest/rtsp", json=body, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json() == answers[1].json()
    assert {answer.headers["Location"] for answer in answers} == {answers[0].json()["status_url"]}
    other = world.client.post("/api/v1/ingest/rtsp", json=body | {"rtsp_url": f"{url}2"}, headers=headers)
    assert other.status_code == 409


def test_the_password_leaks_nowhere(world: World, outcomes: dict[str, Any]) -> None:
    """Not in tables, topics, logs, metrics or responses, nor in the arguments or environment of a process."""
    decoder = "headrace/gateway/capture/decoder.py"
    with ProcessWatch(decoder) as watch, FakeCamera(user="user", password=PASSWORD) as camera:
        state, _, _ = world.end(world.ask(camera.url(f"user:{PASSWORD}@"), "burst", fps=5, frame_count=10))
    assert state == "ingested"
    assert (watch.seen, watch.others) == (set(), {decoder})
    assert tables_with(world.gateway) == []
    assert topics_with(world.gateway.settings) == []
    texts = [world.gateway.log.read_text(), world.worker.log.read_text(), world.worker.get("/metrics")[1]]
    texts.append(world.client.get("/metrics").text)
    assert all(text and CANARY not in text for text in texts)
    assert world.gateway.rows("select 1 from ingest_requests where sealed is not null"), "it was there, and sealed"
