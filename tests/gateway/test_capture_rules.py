"""The rules of a capture, without I/O: URLs, addresses, credentials, states, plans, and reconnects."""

import asyncio
from itertools import pairwise
from uuid import uuid4

import pytest

from headrace.gateway.capture.camera_faults import (
    FAILED_CONNECTS_MAX,
    FAULT_REASONS,
    RECONNECT_BACKOFF,
    TRANSIENT_FAULTS,
    CameraFault,
    should_give_up,
)
from headrace.gateway.capture.camera_url import (
    CameraLogin,
    CameraUrlError,
    CredentialCipher,
    DecryptionError,
    parse_camera_url,
)
from headrace.gateway.capture.capture_request import (
    ACTIVE_STATES,
    FINAL_STATES,
    PREDECESSORS,
    CaptureMode,
    CapturePlan,
    CaptureProgress,
    CaptureState,
    plan_for,
)
from headrace.runtime.addresses import AddressNotAllowedError, is_allowed, networks_of, resolve

PASSWORD = "p@:/%#x"


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://user:p@:/%#x@camera:8554/stream?channel=1",
        "rtsp://user:p%40%3A%2F%25%23x@camera:8554/stream?channel=1",
    ],
    ids=["raw", "percent-encoded"],
)
def test_a_password_with_every_delimiter_is_parsed_and_redacted(text: str) -> None:
    url = parse_camera_url(text)
    assert url.login == CameraLogin("user", PASSWORD)
    assert (url.redacted, url.target) == ("rtsp://camera:8554/stream", "/stream?channel=1")
    assert PASSWORD not in repr(url)
    assert "p%40" not in repr(url)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://camera", "rtsp://camera"),
        ("RTSPS://Camera.example./a/b", "rtsps://camera.example./a/b"),
        ("rtsp://[2001:db8::1]:8554/a", "rtsp://[2001:db8::1]:8554/a"),
        ("rtsp://u:p@ss@camera/a", "rtsp://camera/a"),
        ("rtsp://camera/stream@main", "rtsp://camera/stream@main"),
        ("rtsp://camera/$(a)'!;=,/~b//c", "rtsp://camera/$(a)'!;=,/~b//c"),
        ("rtsp://camera?tcp", "rtsp://camera"),
        ("rtsp://camera/user=admin_password=secret_channel=1", "rtsp://camera/***"),
    ],
)
def test_a_redacted_url_has_no_secrets(text: str, shown: str) -> None:
    assert parse_camera_url(text).redacted == shown


@pytest.mark.parametrize(
    "text",
    [
        "rtsp://camera/x -f lavfi -i color",
        "-i",
        "-rtsp://camera/x",
        "rtsp://-camera/x",
        "rtsp://camera/{id}",
        "rtsp://camera/`id`",
        "rtsp://camera/a|b",
        "rtsp://camera/%zz",
        "rtsp://camera\r\nX: y/",
        "rtsp://camera/\x00",
        "rtsp://camera/\u202e",
        "file:///etc/passwd",
        "http://camera/",
        "concat:rtsp://camera/",
        "rtsp:///x",
        "rtsp://",
        "rtsp://camera:0/",
        "rtsp://camera:65536/",
        "rtsp://①②⑦.0.0.1/",
        "rtsp://[fe80::1%25eth0]/",
        "",
        "rtsp://camera/" + "a" * 2048,
        "rtsp://u:12/b@camera/",
        "rtsp://u:p@camera/stream@main",
        "rtsp://u:" + "p" * 600 + "@camera/",
    ],
)
def test_an_invalid_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(CameraUrlError) as caught:
        parse_camera_url(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "0.0.0.0",
        "0177.0.0.1",
        "0x7f000001",
        "2130706433",
        "127.1",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "ff02::1",
    ],
)
def test_an_internal_address_is_refused_in_every_notation(host: str) -> None:
    with pytest.raises(AddressNotAllowedError):
        asyncio.run(resolve(host, 554, ()))


def test_only_the_listed_networks_are_allowed() -> None:
    networks = networks_of("192.168.10.0/24, 2001:db8::/64")
    assert asyncio.run(resolve("192.168.10.7", 554, networks)) == ["192.168.10.7"]
    assert is_allowed("::ffff:192.168.10.7", networks)
    assert not is_allowed("192.168.11.7", networks)
    assert is_allowed("8.8.8.8", ())


def test_a_network_is_granted_to_its_site_or_to_every_one() -> None:
    text = "192.168.10.0/24, plant-a=10.1.0.0/16, a=b=10.2.0.0/16"
    granted = {
        site: [str(network) for network in networks_of(text, site)] for site in ("plant-a", "plant-b", "a=b", "")
    }
    everywhere = ["192.168.10.0/24"]
    assert granted == {
        "plant-a": [*everywhere, "10.1.0.0/16"],
        "plant-b": everywhere,
        "a=b": [*everywhere, "10.2.0.0/16"],
        "": everywhere,
    }
    for wrong in ("plant-a=", "10.1.0.0/16=plant-a", "plant-a:10.1.0.0/16"):
        with pytest.raises(ValueError, match="does not appear to be"):
            networks_of(wrong)


def test_credentials_decrypt_only_for_their_request_and_secret() -> None:
    url, request_id, cipher = (
        parse_camera_url(f"rtsp://user:{PASSWORD}@camera/a?b=1"),
        uuid4(),
        CredentialCipher("s" * 40),
    )
    sealed = cipher.encrypt(request_id, url)
    assert PASSWORD.encode() not in sealed
    assert cipher.decrypt(request_id, sealed, parse_camera_url(url.redacted)) == url
    assert cipher.encrypt(request_id, url) != sealed
    for other, for_request, text in (
        (cipher, uuid4(), sealed),
        (CredentialCipher("t" * 40), request_id, sealed),
        (cipher, request_id, sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (cipher, request_id, b""),
    ):
        with pytest.raises(DecryptionError):
            other.decrypt(for_request, text, parse_camera_url(url.redacted))


def test_transitions_lead_to_a_final_state_and_never_out_of_one() -> None:
    way = [
        CaptureState.REQUESTED,
        CaptureState.CONNECTING,
        CaptureState.RECORDING,
        CaptureState.UPLOADING,
        CaptureState.INGESTED,
    ]
    assert all(before in PREDECESSORS[after] for before, after in pairwise(way))
    assert CaptureState.RECORDING in PREDECESSORS[CaptureState.CONNECTING]
    assert all(PREDECESSORS[state].isdisjoint(FINAL_STATES) for state in CaptureState)
    assert PREDECESSORS[CaptureState.REQUESTED] == ACTIVE_STATES
    assert PREDECESSORS[CaptureState.FAILED] == {CaptureState.REQUESTED, *ACTIVE_STATES}
    assert set(PREDECESSORS) == set(CaptureState)


def test_progress_and_plans_round_trip() -> None:
    evidence = CaptureProgress(worker="w", reconnects=2, codec="h264", width=640)
    assert CaptureProgress.from_json(evidence.as_json()) == evidence
    assert CaptureProgress.from_json("{}") == CaptureProgress()
    plan = plan_for("rtsp://camera/a", CaptureMode.BURST, frame_count=20)
    assert CapturePlan.from_json(plan.as_json()) == plan
    assert (plan.fps, plan.frame_count) == (5.0, 20)
    assert plan_for("", CaptureMode.SINGLE_FRAME, frame_count=9).frame_count == 1
    assert plan_for("", CaptureMode.CONTINUOUS, duration_s=7).duration_s == 7


def test_reconnects_back_off_and_are_limited() -> None:
    delays = [RECONNECT_BACKOFF.delay_s(count) for count in range(1, 20)]
    assert delays == sorted(delays)
    assert delays[-1] == RECONNECT_BACKOFF.max_s == 30.0
    assert not should_give_up(CameraFault.LOST, failures=1, reconnects=1)
    assert should_give_up(CameraFault.LOST, failures=FAILED_CONNECTS_MAX, reconnects=1)
    assert all(should_give_up(fault, failures=0, reconnects=0) for fault in set(CameraFault) - TRANSIENT_FAULTS)
    assert set(FAULT_REASONS) == set(CameraFault)
