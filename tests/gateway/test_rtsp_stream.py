"""The stream itself: door and decoder, against a server of GStreamer's and against cameras that are broken."""

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
from rtsp_server import Camera

from producers.rtsp_door import Place
from producers.rtsp_faults import Fault, StreamLost
from producers.rtsp_stream import About, Picture, Stream, Wanted

pytestmark = pytest.mark.timeout(180)

PASSWORD = "p@:/%#x"
SYSTEM_PYTHON = "/usr/bin/python3"
SERVER = Path(__file__).with_name("gst_rtsp_server.py")


def read(
    port: int, login: tuple[str, str] | None = None, frames: int = 5, fps: float = 20.0, tls_name: str | None = None
) -> tuple[list[About | Picture], Fault | None]:
    async def reading() -> tuple[list[About | Picture], Fault | None]:
        found: list[About | Picture] = []
        wanted = Wanted(target="/stream", login=login, fps=fps, duration_s=60, frame_count=frames)
        try:
            async with Stream(Place(["127.0.0.1"], port, tls_name), wanted) as stream:
                async for one in stream.found():
                    found.append(one)  # noqa: PERF401 - those before a loss count
        except StreamLost as lost:
            return found, lost.fault
        return found, None

    return asyncio.run(reading())


def sizes(found: list[About | Picture]) -> set[tuple[int, int]]:
    shapes = [
        cv2.imdecode(np.frombuffer(one.body, np.uint8), cv2.IMREAD_COLOR).shape
        for one in found
        if isinstance(one, Picture)
    ]
    return {(width, height) for height, width, _ in shapes}


@pytest.fixture(scope="module")
def gstreamer() -> Iterator[int]:
    """The port of GStreamer's RTSP server, which knows `user` with PASSWORD."""
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


def test_a_server_that_is_not_ours_is_read_with_a_login_that_holds_every_delimiter(gstreamer: int) -> None:
    found, fault = read(gstreamer, ("user", PASSWORD))
    assert fault is None
    assert found[0] == About("mjpeg", 320, 240)
    assert len(found) == 6
    assert sizes(found) == {(320, 240)}


@pytest.mark.parametrize("login", [("user", "wrong"), ("nobody", PASSWORD), None])
def test_a_server_that_is_not_ours_refuses_who_it_does_not_know(gstreamer: int, login: tuple[str, str] | None) -> None:
    assert read(gstreamer, login) == ([], Fault.LOGIN_REFUSED)


@pytest.mark.parametrize(
    ("fault", "argument", "ends"),
    [
        ("redirect", "rtsp://127.0.0.1:9/stream", Fault.REDIRECTED),
        ("redirect", "file:///etc/passwd", Fault.REDIRECTED),
        ("control", "file:///etc/passwd", Fault.DESCRIPTION_REFUSED),
        ("missing", "", Fault.STREAM_UNKNOWN),
        ("not_rtsp", "", Fault.NOT_RTSP),
        ("endless", "", Fault.NOT_RTSP),
        ("mute", "", Fault.SILENT),
        ("drip", "", Fault.SILENT),
        ("drop", "", Fault.LOST),
        ("stall", "", Fault.SILENT),
        ("sps", "6250", Fault.UNDECODABLE),
    ],
)
def test_what_is_wrong_with_a_camera_is_named(fault: str, argument: str, ends: Fault) -> None:
    with Camera(fault=fault, argument=argument) as camera:
        found, ended = read(camera.port, frames=1000)
    assert ended is ends
    assert all(isinstance(one, About | Picture) for one in found)
    assert bool(found) == (fault in {"drop", "stall"})


@pytest.mark.parametrize("fault", ["", "multicast", "wrap", "backwards"])
def test_what_is_only_odd_is_read(fault: str) -> None:
    with Camera(fault=fault) as camera:
        found, ended = read(camera.port)
    assert (ended, len(found)) == (None, 6)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of its own authority, with its key, for `camera.test`."""
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
        (True, "another.test", Fault.CERTIFICATE_REFUSED),
        (True, "127.0.0.1", Fault.CERTIFICATE_REFUSED),
        (False, "camera.test", Fault.CERTIFICATE_REFUSED),
    ],
)
def test_a_certificate_has_to_be_good_for_the_name(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, tls_name: str, ends: Fault | None
) -> None:
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    with Camera(tls=tls) as camera:
        found, ended = read(camera.port, tls_name=tls_name)
        assert ended is ends
        assert len(found) == (6 if ends is None else 0)
        assert not (camera.methods and ends), "nothing was said to who is not the camera"


def test_a_camera_without_tls_is_not_spoken_to_where_tls_is_asked_for() -> None:
    with Camera() as camera:
        assert read(camera.port, tls_name="camera.test") == ([], Fault.UNREACHABLE)
        assert camera.methods == []


def test_a_stream_may_change_its_size() -> None:
    with Camera(fault="resize") as camera:
        found, ended = read(camera.port, frames=60)
    assert ended is None
    assert sizes(found) == {(320, 240), (640, 480)}


def test_a_picture_that_is_cropped_to_nothing_ends_one_way_or_the_other() -> None:
    with Camera(fault="sps", argument="0") as camera:
        _, ended = read(camera.port)
    assert ended in {None, Fault.UNDECODABLE, Fault.LOST, Fault.SILENT, Fault.DECODER_DIED}


def test_a_decoder_that_dies_takes_nobody_with_it() -> None:
    async def killed() -> Fault | None:
        wanted = Wanted(target="/stream", login=None, fps=20, duration_s=60, frame_count=1000)
        try:
            async with Stream(Place(["127.0.0.1"], camera.port), wanted) as stream:
                async for one in stream.found():
                    if isinstance(one, Picture):
                        stream._decoder.kill()
        except StreamLost as lost:
            return lost.fault
        return None

    with Camera() as camera:
        assert asyncio.run(killed()) is Fault.DECODER_DIED
        assert len(read(camera.port)[0]) == 6


def test_only_one_decoder_comes_through_a_door() -> None:
    async def strangers() -> list[bytes]:
        wanted = Wanted(target="/stream", login=None, fps=20, duration_s=60, frame_count=3)
        async with Stream(Place(["127.0.0.1"], camera.port), wanted) as stream:
            port = stream._door._server.sockets[0].getsockname()[1]
            answers = []
            async for _ in stream.found():
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    answers.append(b"")
                else:
                    answers.append(await reader.read())
                    writer.close()
            return answers

    with Camera() as camera:
        assert set(asyncio.run(strangers())) == {b""}
        assert camera.connections == 1
