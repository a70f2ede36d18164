"""The multimodal ingestion module's calls, as its clients make them."""

from pathlib import Path

import pytest

from tests.gateway.gateway_world import Gateway, name, picture

pytestmark = pytest.mark.stack


def test_a_video_is_taken_and_durable(gateway: Gateway, video: Path) -> None:
    with gateway.client() as client, (video / "car-detection.mp4").open("rb") as file:
        answer = client.post("/ingest", files={"file": ("car.mp4", file, "video/mp4")})
    assert answer.status_code == 200, answer.text
    said = answer.json()
    assert (said["status"], said["filename"], said["size_bytes"]) == ("ingested", "car.mp4", 2_811_553)
    assert gateway.rows("select kind from records where record_id = %s", said["id"]) == [("clip",)]


def test_a_client_that_only_knows_an_address_has_its_key_there(gateway: Gateway) -> None:
    with gateway.anonymous() as client:
        answer = client.post("/ingest", files={"file": picture()}, auth=("headrace", gateway.key()))
    assert answer.status_code == 200, answer.text


def test_who_shows_no_key_is_told_so_and_noted(gateway: Gateway) -> None:
    marker = name("request")
    with gateway.anonymous() as client:
        answer = client.post("/ingest", files={"file": picture()}, headers={"X-Request-ID": marker})
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "not_authenticated"
    assert "WWW-Authenticate" in answer.headers


def test_health_and_readiness(gateway: Gateway) -> None:
    with gateway.anonymous() as client:
        assert client.get("/health").json() == {"status": "ok"}
        ready = client.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["needs"] == {"kafka": "ok", "postgres": "ok", "store": "ok", "redis": "ok"}
        metrics = client.get("/metrics").text
    for wanted in (
        "http_requests_total",
        "headrace_gateway_chunk_bytes_per_second",
        "headrace_gateway_buffer_waiting",
        "headrace_gateway_file_bytes",
    ):
        assert wanted in metrics
