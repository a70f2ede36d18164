"""`/ws/ingest`: a feed over a real socket, against a real stack."""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import httpx
import pytest
from websockets.sync.client import ClientConnection

from headrace.schemas.limits import INLINE_BYTES_MAX
from tests.gateway.gateway_world import Gateway, StartGateway, name, picture
from tests.gateway.live_world import ANSWER_S_MAX, close_frame, events, receive, watch, websocket
from tests.waiting import until

pytestmark = [pytest.mark.stack, pytest.mark.timeout(240)]

LDO = {"ldo_id": "ldo-1", "sensor_data": {"t": 1}, "context": {}, "prediction": {"class": "smoke"}}


def _send(feed: ClientConnection, seq: int, body: bytes, camera: str, **changes: Any) -> None:
    header = {"type": "frame", "seq": seq, "source_id": camera, "site": "live", "size_bytes": len(body), **changes}
    feed.send(json.dumps(header))
    feed.send(body)


def _answers(feed: ClientConnection, count: int) -> dict[int, Mapping[str, Any]]:
    return {answer["seq"]: answer for answer in (receive(feed) for _ in range(count))}


def test_five_hundred_frames_are_durable_and_announced_once(gateway: Gateway) -> None:
    key, source_id, count = gateway.key(), name("camera"), 500
    frames = [picture() for _ in range(count)]
    with watch(gateway, key, source_id=source_id) as socket_:
        begin = receive(socket_)["id"]
    with websocket(gateway, "/ws/ingest", key) as feed:
        hello = receive(feed)
        assert hello == {"type": "hello", "window": 32, "frame_bytes_max": INLINE_BYTES_MAX}
        answers: dict[int, Mapping[str, Any]] = {}
        for seq, frame in enumerate(frames):
            _send(feed, seq, frame, source_id, sha256=sha256(frame).hexdigest(), captured_at="2026-01-31T12:00:00Z")
            if seq - len(answers) >= hello["window"] - 1:
                answers |= _answers(feed, 1)
        answers |= _answers(feed, count - len(answers))
        _send(feed, count, picture(), source_id)
        last = receive(feed)["record_id"]
    with watch(gateway, key, last=begin, source_id=source_id) as socket_:
        announced = [event["data"]["record_id"] for event in events(socket_, count + 1)]
    assert announced.pop() == last  # so none of the others was announced again
    assert {answer["type"] for answer in answers.values()} == {"ack"}
    assert [answers[seq]["sha256"] for seq in range(count)] == [sha256(frame).hexdigest() for frame in frames]
    assert sorted(announced) == sorted({event["record_id"] for event in answers.values()})
    stored = gateway.rows("select count(*) from records where source_id = %s", source_id)
    assert stored == [(count + 1,)]


def test_an_ldo_is_acknowledged(gateway: Gateway) -> None:
    source_id = name("device")
    with websocket(gateway, "/ws/ingest", gateway.key("device", [f"live/{source_id}"])) as feed:
        receive(feed)
        ldo = {"type": "ldo", "source_id": source_id, "site": "live", "captured_at": "2026-01-31T12:00:00Z", **LDO}
        feed.send(json.dumps({**ldo, "seq": 7}))
        answer = receive(feed)
        assert (answer["type"], answer["seq"]) == ("ack", 7)
        assert answer["status"] in {"ingested", "accepted"}
        # The sequence number is not part of the LDO: sent again, it is the same record.
        feed.send(json.dumps({**ldo, "seq": 8}))
        assert receive(feed)["record_id"] == answer["record_id"]
    until(
        lambda: gateway.rows("select count(*) from records where source_id = %s and kind = 'ldo'", source_id)[0][0],
        ANSWER_S_MAX,
        "the LDO",
    )
    [(body,)] = gateway.rows("select ldo_id from records where record_id = %s", answer["record_id"])
    assert body == "ldo-1"


FRAME = picture()
REFUSED: dict[str, tuple[dict[str, Any], bytes, str]] = {
    "wrong size": ({"size_bytes": 1}, FRAME, "size_mismatch"),
    "no size": ({"size_bytes": None}, FRAME, "missing_field"),
    "a size that is none": ({"size_bytes": True}, FRAME, "missing_field"),
    "wrong digest": ({"sha256": "0" * 64}, FRAME, "digest_mismatch"),
    "upper-case digest": ({"sha256": sha256(FRAME).hexdigest().upper()}, FRAME, "malformed_digest"),
    "too large": ({}, FRAME + bytes(INLINE_BYTES_MAX), "too_large"),
    "empty": ({}, b"", "not_an_image"),
    "no image": ({}, b"<svg onload=alert(1)>", "not_an_image"),
    "a program": ({}, b"\x7fELF" + bytes(1000), "not_an_image"),
    "no source": ({"source_id": None, "site": "live"}, FRAME, "missing_field"),
    "a source that is no text": ({"source_id": {"$ne": 1}}, FRAME, "field_out_of_range"),
    "a source with a line break": ({"source_id": "a\nb"}, FRAME, "field_out_of_range"),
    "no time": ({"captured_at": "yesterday"}, FRAME, "absurd_time"),
    "year 0": ({"captured_at": "0001-01-01T00:00:00Z"}, FRAME, "absurd_time"),
    "far future": ({"captured_at": "9999-12-31T23:59:59Z"}, FRAME, "absurd_time"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_frame_is_refused_and_the_feed_continues(gateway: Gateway, case: str) -> None:
    changes, body, code = REFUSED[case]
    with websocket(gateway, "/ws/ingest", gateway.key("device", ["live/*"])) as feed:
        receive(feed)
        _send(feed, 1, body, "camera", **changes)
        answer = receive(feed)
        assert (answer["type"], answer["seq"], answer["code"]) == ("refused", 1, code)
        _send(feed, 2, picture(), "camera")
        assert receive(feed)["type"] == "ack"


def test_a_foreign_source_is_refused_and_audited(gateway: Gateway) -> None:
    key = gateway.key("device", ["live/mine"])
    actor = f"key:{key.split('_')[1]}"
    with websocket(gateway, "/ws/ingest", key) as feed:
        receive(feed)
        _send(feed, 1, picture(), "theirs")
        feed.send(json.dumps({"type": "ldo", "seq": 2, "source_id": "theirs", "site": "live", **LDO}))
        answers = _answers(feed, 2)
        assert {answer["code"] for answer in answers.values()} == {"forbidden"}
        _send(feed, 3, picture(), "mine")
        assert receive(feed)["type"] == "ack"
    until(
        lambda: gateway.rows("select 1 from audit where actor = %s and code = 'forbidden'", actor),
        ANSWER_S_MAX,
        "the audit rows",
    )


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"bytes without a header", 1003),
        ("{", 1007),
        ("[]", 1007),
        ('{"type":"frame","seq":NaN}', 1007),
        ('{"type":"frame","seq":1e400}', 1007),
        ("[" * 10_000, 1007),
        ('{"type":"ldo","seq":1,"context":' + '{"a":' * 300 + "1" + "}" * 301, 1007),
        ("{}", 1008),
        ('{"type":"frame"}', 1008),
        ('{"type":"frame","seq":-1}', 1008),
        ('{"type":"frame","seq":true}', 1008),
        ('{"type":"clip","seq":1}', 1008),
        ('{"type":["frame"],"seq":1}', 1008),
        ('{"type":"ldo","seq":1,"context":"' + "x" * 2_000_000 + '"}', 1009),
    ],
)
def test_an_invalid_message_closes_the_feed(gateway: Gateway, message: str | bytes, code: int) -> None:
    with websocket(gateway, "/ws/ingest", gateway.key()) as feed:
        receive(feed)
        feed.send(message)
        assert close_frame(feed)[0] == code
    with gateway.anonymous() as client:
        assert client.get("/health").status_code == 200


def test_a_header_without_its_bytes_closes_the_feed(gateway: Gateway) -> None:
    header = json.dumps({"type": "frame", "seq": 1, "source_id": "camera", "site": "live", "size_bytes": 1})
    with websocket(gateway, "/ws/ingest", gateway.key()) as feed:
        receive(feed)
        feed.send(header)
        feed.send(header)
        assert close_frame(feed)[0] == 1008


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sensor_data": None}, "missing_field"),
        ({"ldo_id": 5}, "missing_field"),
        ({"context": []}, "missing_field"),
        ({"prediction": {"a": "\x00"}}, "not_json"),
        ({"captured_at": "never"}, "absurd_time"),
    ],
)
def test_an_invalid_ldo_is_refused(gateway: Gateway, changes: dict[str, Any], code: str) -> None:
    with websocket(gateway, "/ws/ingest", gateway.key()) as feed:
        receive(feed)
        feed.send(json.dumps({"type": "ldo", "seq": 1, "source_id": "device", "site": "live", **LDO, **changes}))
        answer = receive(feed)
    assert (answer["type"], answer["code"]) == ("refused", code)


def test_no_more_messages_than_the_window_are_in_progress(start_gateway: StartGateway) -> None:
    count = 300
    with start_gateway(gateway_answer_s_max=60) as gateway:
        with websocket(gateway, "/ws/ingest", gateway.key()) as feed:
            receive(feed)
            source_id, most = name("camera"), 0.0
            for seq in range(count):
                _send(feed, seq, picture(), source_id)  # without waiting for answers
                if seq % 20 == 0:
                    most = max(most, _waiting(gateway))
            answers: dict[int, Mapping[str, Any]] = {}
            while len(answers) < count:
                answers |= _answers(feed, 20)
                most = max(most, _waiting(gateway))
        assert {answer["type"] for answer in answers.values()} == {"ack"}
        assert 1 <= most <= 32


def test_a_feed_counts_for_the_upload_limit(start_gateway: StartGateway) -> None:
    # Without Redis the gateway counts in memory: if Redis is slow, it counts anew and accepts more.
    with start_gateway(gateway_upload_mib_per_hour=2, redis_url="") as gateway:
        with websocket(gateway, "/ws/ingest", gateway.key()) as feed:
            receive(feed)
            for seq in range(3):
                _send(feed, seq, picture(), "camera")
            answers = _answers(feed, 3)
        refused = [answer for answer in answers.values() if answer["type"] == "refused"]
        assert [answer["code"] for answer in refused] == ["too_many_requests"]
        assert refused[0]["retry_after_s"] > 0


def _waiting(gateway: Gateway) -> float:
    metrics = httpx.get(f"{gateway.url}/metrics", timeout=30).text
    match = re.search(r"^headrace_gateway_answers_waiting (\S+)$", metrics, re.MULTILINE)
    assert match is not None
    return float(match[1])
