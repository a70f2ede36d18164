"""Proxy and decoder, against GStreamer's RTSP server and broken cameras."""

import asyncio
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from headrace.gateway.capture import rtsp_proxy, rtsp_stream
from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError
from headrace.gateway.capture.rtsp_proxy import CameraAddress
from headrace.gateway.capture.rtsp_stream import CapturedFrame, RtspStream, StreamInfo, StreamRequest
from tests.gateway.rtsp_server import FakeCamera

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

PASSWORD = "p@:/%#x"
SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("gst_rtsp_server.py")


def read(
    port: int,
    login: tuple[str, str] | None = None,
    frames: int = 5,
    fps: float = 20.0,
    tls_name: str | None = None,
    confined: bool = True,
    target: str = "/stream",
    host: str | None = None,
) -> tuple[list[StreamInfo | CapturedFrame], CameraFault | None]:
    async def reading() -> tuple[list[StreamInfo | CapturedFrame], CameraFault | None]:
        items: list[StreamInfo | CapturedFrame] = []
        address = CameraAddress(["127.0.0.1"], port, tls_name, host)
        wanted = StreamRequest(target=target, login=login, fps=fps, duration_s=60, frame_count=frames)
        try:
            async with RtspStream(address, wanted, confined=confined) as stream:
                async for item in stream.items():
                    items.append(item)  # noqa: PERF401 - those before a loss count
        except StreamLostError as lost:
            return items, lost.fault
        return items, None

    return asyncio.run(reading())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait shorter than usual for a camera of which it is known that it keeps one waiting."""
    monkeypatch.setattr(rtsp_proxy, "CONNECT_S_MAX", 1.0)
    for module in (rtsp_proxy, rtsp_stream):
        monkeypatch.setattr(module, "UNIT_S_MAX", 2.0)


def sizes(items: list[StreamInfo | CapturedFrame]) -> set[tuple[int, int]]:
    shapes = [
        cv2.imdecode(np.frombuffer(item.body, np.uint8), cv2.IMREAD_COLOR).shape
        for item in items
        if isinstance(item, CapturedFrame)
    ]
    return {(width, height) for height, width, _ in shapes}


@pytest.fixture(scope="module")
def gstreamer() -> Iterator[int]:
    """The port of GStreamer's RTSP server, which accepts `user` with PASSWORD."""
    look = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    if (
        not Path(SYSTEM_PYTHON).exists()
        or subprocess.run([SYSTEM_PYTHON, "-c", look], capture_output=True, check=False, timeout=60).returncode
    ):
        missing = "needs Debian's python3-gst-1.0, gir1.2-gst-rtsp-server-1.0 and gstreamer1.0-plugins-good"
        pytest.skip(missing)
    with subprocess.Popen(
        [SYSTEM_PYTHON, str(SERVER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(f"{PASSWORD}\n")
        server.stdin.flush()
        yield int(server.stdout.readline())
        server.terminate()


def test_gstreamer_is_read_with_a_login_that_contains_every_delimiter(gstreamer: int) -> None:
    items, fault = read(gstreamer, ("user", PASSWORD))
    assert fault is None
    assert items[0] == StreamInfo("mjpeg", 320, 240)
    assert len(items) == 6
    assert sizes(items) == {(320, 240)}


@pytest.mark.parametrize("login", [("user", "wrong"), ("nobody", PASSWORD), None])
def test_gstreamer_refuses_an_unknown_login(gstreamer: int, login: tuple[str, str] | None) -> None:
    assert read(gstreamer, login) == ([], CameraFault.LOGIN_REFUSED)


@pytest.mark.parametrize(
    ("fault", "argument", "ends"),
    [
        ("redirect", "rtsp://127.0.0.1:9/stream", CameraFault.REDIRECTED),
        ("redirect", "file:///etc/passwd", CameraFault.REDIRECTED),
        ("control", "file:///etc/passwd", CameraFault.DESCRIPTION_REFUSED),
        ("missing", "", CameraFault.STREAM_UNKNOWN),
        ("not_rtsp", "", CameraFault.NOT_RTSP),
        ("endless", "", CameraFault.NOT_RTSP),
        ("mute", "", CameraFault.SILENT),
        ("drip", "", CameraFault.SILENT),
        ("drop", "", CameraFault.LOST),
        ("stall", "", CameraFault.SILENT),
        ("sps", "6250", CameraFault.UNDECODABLE),
    ],
)
def test_each_fault_of_a_camera_has_its_code(
    request: pytest.FixtureRequest, fault: str, argument: str, ends: CameraFault
) -> None:
    if ends in {CameraFault.SILENT, CameraFault.UNDECODABLE}:
        request.getfixturevalue("impatient")
    with FakeCamera(fault=fault, argument=argument) as camera:
        items, ended = read(camera.port, frames=1000)
    assert ended is ends
    assert all(isinstance(item, StreamInfo | CapturedFrame) for item in items)
    assert bool(items) == (fault in {"drop", "stall"})


@pytest.mark.parametrize("fault", ["", "multicast", "wrap", "backwards", "short_packets"])
def test_unusual_streams_are_read(fault: str) -> None:
    with FakeCamera(fault=fault) as camera:
        items, ended = read(camera.port)
    assert (ended, len(items)) == (None, 6)


def test_a_stream_is_read_without_confinement() -> None:
    with FakeCamera() as camera:
        items, ended = read(camera.port, confined=False)
    assert (ended, len(items)) == (None, 6)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate and its key, for `camera.test`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera.test")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("camera.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "camera.pem"
    path.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed.public_bytes(Encoding.PEM)
    )
    return path


@pytest.mark.parametrize(
    ("trusted", "tls_name", "ends"),
    [
        (True, "camera.test", None),
        (True, "another.test", CameraFault.CERTIFICATE_REFUSED),
        (True, "127.0.0.1", CameraFault.CERTIFICATE_REFUSED),
        (False, "camera.test", CameraFault.CERTIFICATE_REFUSED),
    ],
)
def test_the_certificate_must_match_the_host_name(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, tls_name: str, ends: CameraFault | None
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    with FakeCamera(tls=tls) as camera:
        items, ended = read(camera.port, tls_name=tls_name)
        assert ended is ends
        assert len(items) == (6 if ends is None else 0)
        assert not (camera.methods and ends), "nothing was sent to a server that is not the camera"


@pytest.mark.usefixtures("impatient")
def test_nothing_is_sent_to_a_camera_without_tls_if_tls_is_required() -> None:
    with FakeCamera() as camera:
        assert read(camera.port, tls_name="camera.test") == ([], CameraFault.UNREACHABLE)
        assert camera.methods == []


def test_a_stream_may_change_its_size() -> None:
    with FakeCamera(fault="resize") as camera:
        items, ended = read(camera.port, frames=60)
    assert ended is None
    assert sizes(items) == {(320, 240), (640, 480)}


@pytest.mark.usefixtures("impatient")
def test_a_frame_that_is_cropped_to_zero_pixels_does_not_hang() -> None:
    with FakeCamera(fault="sps", argument="0") as camera:
        _, ended = read(camera.port)
    assert ended in {None, CameraFault.UNDECODABLE, CameraFault.LOST, CameraFault.SILENT, CameraFault.DECODER_DIED}


def test_a_crashed_decoder_ends_only_its_stream() -> None:
    async def killed() -> CameraFault | None:
        wanted = StreamRequest(target="/stream", login=None, fps=20, duration_s=60, frame_count=1000)
        try:
            async with RtspStream(CameraAddress(["127.0.0.1"], camera.port), wanted) as stream:
                async for item in stream.items():
                    if isinstance(item, CapturedFrame):
                        stream._decoder.kill()
        except StreamLostError as lost:
            return lost.fault
        return None

    with FakeCamera() as camera:
        assert asyncio.run(killed()) is CameraFault.DECODER_DIED
        assert len(read(camera.port)[0]) == 6


@pytest.mark.parametrize("fault", ["hidden_redirect", "redirect"])
def test_the_decoder_is_not_led_to_another_address(fault: str) -> None:
    with FakeCamera() as other, FakeCamera(fault=fault, argument=other.url()) as camera:
        _, ended = read(camera.port)
        assert other.connections == 0
    assert ended is (CameraFault.REDIRECTED if fault == "redirect" else CameraFault.NOT_RTSP)


def test_decoders_can_be_confined() -> None:
    asyncio.run(rtsp_stream.require_confinement())


@pytest.mark.parametrize(
    "challenges",
    [
        ("Digest",),
        ("Digest algorithm=MD5, qop=auth",),
        ("Digest algorithm=SHA-256",),
        ('Digest algorithm=MD5, qop="auth"', 'Digest algorithm=SHA-256, qop="auth"'),
        ('Digest algorithm=SHA-256-sess, qop="auth"',),
        ("Basic", "Digest algorithm=SHA-256"),
        ("Basic",),
    ],
)
def test_a_camera_is_logged_in_to_by_the_strongest_way(challenges: tuple[str, ...]) -> None:
    with FakeCamera(user="admin", password=PASSWORD, challenges=challenges) as camera:
        items, fault = read(camera.port, ("admin", PASSWORD), frames=2)
        assert (len(items), fault) == (3, None), camera.logins
        assert camera.methods[:3] == ["OPTIONS", "DESCRIBE", "DESCRIBE"]
        assert read(camera.port, ("admin", "wrong"))[1] is CameraFault.LOGIN_REFUSED
        assert read(camera.port)[1] is CameraFault.LOGIN_REFUSED


def test_a_new_nonce_is_taken() -> None:
    with FakeCamera(user="a", password="p", challenges=("Digest algorithm=SHA-256",), stale_after=2) as camera:
        items, fault = read(camera.port, ("a", "p"), frames=2)
    assert (len(items), fault) == (3, None), camera.logins


@pytest.mark.parametrize("confined", [True, False])
@pytest.mark.parametrize(
    "target", ["", "/", "/live/", "/$(a)'!;=,/~b//c@d", "/h264?udp&listen&tcp", "?channel=1&subtype=0", "/a%20b[1]"]
)
def test_a_camera_sees_its_own_name_and_path(target: str, confined: bool) -> None:
    with FakeCamera(user="a", password="p") as camera:
        items, fault = read(camera.port, ("a", "p"), frames=2, target=target, host="camera.example", confined=confined)
    assert (len(items), fault) == (3, None)
    url = f"rtsp://camera.example:{camera.port}{target}"
    assert camera.urls[:3] == [url] * 3
    assert all(seen.startswith(url) for seen in camera.urls), camera.urls


def test_the_default_port_and_an_ipv6_address_are_written_as_in_a_url() -> None:
    assert CameraAddress(["10.0.0.1"], 554, None, "camera").authority == "camera"
    assert CameraAddress(["2001:db8::1"], 8554).authority == "[2001:db8::1]:8554"
    assert CameraAddress(["10.0.0.1"], 322, "camera", "camera").authority == "camera:322"
