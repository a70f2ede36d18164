"""The LDO service's calls, as its clients make them."""

import asyncio
import json
import re
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from headrace.store.blobs.blob_store import Blobs
from tests.gateway.gateway_world import Gateway, name

pytestmark = pytest.mark.stack


def metadata(**changes: Any) -> dict[str, Any]:
    said = {
        "ldo_id": name("ldo"),
        "sensor_data": {"temperature": 21.5},
        "context": {"line": 3, "device_id": name("device")},
        "prediction": {"label": "scratch", "confidence": 0.93},
    }
    return said | changes


def send(gateway: Gateway, said: Any, video: bytes | None = None, **options: Any) -> Any:
    files = {"metadata": (None, said if isinstance(said, str) else json.dumps(said))}
    if video is not None:
        files["video"] = ("clip.mp4", video, "video/mp4")
    with gateway.client(**options) as client:
        return client.post("/ingest/ldo", files=files)


def test_an_ldo_with_its_video(gateway: Gateway, video: Path) -> None:
    clip = (video / "bottle-detection.mp4").read_bytes()
    said = metadata()
    answer = send(gateway, said, clip)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert set(body) == {"id", "status", "size_bytes"}
    assert re.fullmatch(r"ldo_[0-9a-f]{12}_\d{10}", body["id"])
    assert body["status"] == "ingested"
    [(size_bytes,)] = gateway.rows("select size_bytes from records where ldo_id = %s", said["ldo_id"])
    assert body["size_bytes"] == len(clip) + size_bytes
    [(clip_digest,)] = gateway.rows("select encode(clip_sha256, 'hex') from records where ldo_id = %s", said["ldo_id"])
    assert gateway.rows("select count(*) from blobs where encode(sha256, 'hex') = %s", clip_digest) == [(1,)]


@pytest.mark.parametrize("video", [None, b""])
def test_the_video_may_be_absent_or_empty(gateway: Gateway, video: bytes | None) -> None:
    said = metadata()
    answer = send(gateway, said, video)
    assert answer.status_code == 200, answer.text
    [(size_bytes,)] = gateway.rows("select size_bytes from records where ldo_id = %s", said["ldo_id"])
    assert answer.json()["size_bytes"] == size_bytes


def test_what_was_written_is_kept_byte_for_byte(gateway: Gateway) -> None:
    ldo_id = name("ldo")
    parts = '"sensor_data": {"x": 0.10000000000000000000001}'
    text = f'{{"ldo_id": "{ldo_id}", {parts}, "context":{{}}, "prediction":{{}}}}'
    assert send(gateway, text).status_code == 200
    [(key, offset, size)] = gateway.rows(
        "select store_key, store_offset, b.size_bytes from records r join blobs b on b.sha256 = r.digest "
        "where ldo_id = %s",
        ldo_id,
    )
    body = asyncio.run(Blobs.from_settings(gateway.settings).get(key, offset=offset, length=size))
    assert b'"sensor_data":{"x": 0.10000000000000000000001}' in body


def test_the_list_is_newest_first_with_names_and_sizes(gateway: Gateway, video: Path) -> None:
    clip = (video / "bottle-detection.mp4").read_bytes() + b"\0\0\0\x08free"
    source = name("device")
    first = send(gateway, metadata(context={"device_id": source}), sources=[f"default/{source}"]).json()
    second = send(gateway, metadata(context={"device_id": source}), clip, sources=[f"default/{source}"]).json()
    with gateway.client(sources=[f"default/{source}"]) as client:
        listed = client.get("/ingest/list", params={"skip": 0, "limit": 100})
        assert listed.status_code == 200
        only_first = client.get("/ingest/list?skip=1&limit=1").json()
    body = listed.json()
    assert body["total"] == 2
    assert [one["id"] for one in body["ldos"]] == [second["id"], first["id"]]
    newest = body["ldos"][0]
    assert [ldo["size_bytes"] for ldo in body["ldos"]] == [second["size_bytes"], first["size_bytes"]]
    assert set(newest) == {"id", "status", "filename", "created_at", "size_bytes"}
    assert (newest["status"], newest["filename"]) == ("ingested", "clip.mp4")
    assert newest["size_bytes"] > len(clip)
    created = datetime.fromisoformat(newest["created_at"]).replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - created).total_seconds()) < 600
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", newest["created_at"])
    assert [one["id"] for one in only_first["ldos"]] == [first["id"]]


def test_two_ldos_may_share_a_clip(gateway: Gateway, video: Path) -> None:
    clip = (video / "bottle-detection.mp4").read_bytes() + b"\0\0\0\x10free12345678"
    source = name("device")
    for _ in range(2):
        assert send(gateway, metadata(context={"device_id": source}), clip).status_code == 200
    with gateway.client(sources=[f"default/{source}"]) as client:
        assert [one["filename"] for one in client.get("/ingest/list").json()["ldos"]] == ["clip.mp4", "clip.mp4"]


def test_a_scan_as_a_form(gateway: Gateway) -> None:
    device = name("scanner")
    with gateway.client() as client:
        answer = client.post("/cid", data={"cid": "PART-1", "device_id": device})
    assert answer.status_code == 200, answer.text
    assert set(answer.json()) == {"id", "status"}
    assert gateway.rows("select record_id::text from records where kind = 'cid' and source_id = %s", device) == [
        (answer.json()["id"],)
    ]


def test_a_scan_with_the_video_that_shows_it(gateway: Gateway, video: Path) -> None:
    device = name("scanner")
    with gateway.client() as client, (video / "car-detection.mp4").open("rb") as clip:
        answer = client.post("/cid", data={"cid": "PART-2", "device_id": device}, files={"video": ("v.mp4", clip)})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "ingested"


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("not json", 422, "not_json"),
        ({"ldo_id": "x", "sensor_data": {}, "context": {}}, 422, "missing_field"),
        ('{"ldo_id":"a","ldo_id":"b","sensor_data":{},"context":{},"prediction":{}}', 422, "not_json"),
        (metadata(captured_at="9999-01-01T00:00:00Z"), 422, "absurd_time"),
        (metadata(captured_at="yesterday"), 422, "absurd_time"),
        (metadata(ldo_id=7), 422, "missing_field"),
    ],
)
def test_wrong_metadata_are_named(gateway: Gateway, said: Any, status: int, code: str) -> None:
    answer = send(gateway, said)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_another_device_may_not_be_spoken_for(gateway: Gateway) -> None:
    answer = send(gateway, metadata(context={"device_id": name("mine")}), sources=["default/other"])
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_a_video_that_is_none_takes_nothing(gateway: Gateway) -> None:
    said, device = metadata(), name("scanner")
    answer = send(gateway, said, b"MZ" + bytes(2000))
    assert (answer.status_code, answer.json()["code"]) == (415, "not_an_image")
    with gateway.client() as client:
        scan = client.post("/cid", data={"cid": "PART-3", "device_id": device}, files={"video": b"MZ" + bytes(2000)})
        assert (scan.status_code, scan.json()["code"]) == (415, "not_an_image")
        good = client.post("/cid", data={"cid": "PART-3", "device_id": device})
    assert good.status_code == 200, good.text
    assert gateway.rows("select record_id::text from records where source_id = %s", device) == [(good.json()["id"],)]


def test_an_ldo_that_is_refused_takes_no_video(gateway: Gateway, video: Path) -> None:
    clip = (video / "bottle-detection.mp4").read_bytes() + b"\0\0\0\x10freeabcdefgh"
    answer = send(gateway, metadata(captured_at="1999-01-01T00:00:00Z"), clip)
    assert (answer.status_code, answer.json()["code"]) == (422, "absurd_time")
    good = send(gateway, metadata())
    assert good.status_code == 200, good.text
    assert gateway.rows("select 1 from records where digest = %s", sha256(clip).digest()) == []
