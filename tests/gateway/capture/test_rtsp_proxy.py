"""What a decoder is shown of what a camera sends, over real sockets; and what it never sees."""

import asyncio
import socket
from contextlib import suppress

import pytest

from headrace.gateway.capture.camera_faults import CameraFault
from headrace.gateway.capture.rtsp_proxy import CameraAddress, RtspProxy

PACKET = b"$\x00\x00\x0c" + bytes(range(12))
DESCRIPTION = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=control:track1\r\n"


def passed_on(sent: bytes) -> tuple[bytes, CameraFault | None]:
    """Return what a decoder reads where a camera sends `sent` and closes, and what the proxy says of the camera."""

    async def relaying() -> tuple[bytes, CameraFault | None]:
        async def camera(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            writer.close()

        server = await asyncio.start_server(camera, "127.0.0.1", 0)
        proxy = RtspProxy(CameraAddress(["127.0.0.1"], server.sockets[0].getsockname()[1]))
        ours, decoders = socket.socketpair()
        await proxy.open()
        await proxy.serve(ours, b"request\n")
        reader, writer = await asyncio.open_connection(sock=decoders)
        assert await reader.readline() == b"request\n"
        writer.write(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
        received = await reader.read(-1)
        writer.close()
        await proxy.close()
        server.close()
        with suppress(OSError):
            await writer.wait_closed()
        return received, proxy.fault

    return asyncio.run(relaying())


def response(*headers: bytes, body: bytes = b"", status: bytes = b"200 OK") -> bytes:
    return b"\r\n".join([b"RTSP/1.0 " + status, b"CSeq: 1", *headers, b"", body])


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        pytest.param(
            response(b"session:  7;timeout=60 ", b"Server: WMServer/9", b"X-Notice: 2101", b"Location: rtsp://h/"),
            b"RTSP/1.0 200 -\r\nCSeq: 1\r\nSession: 7;timeout=60\r\n\r\n",
            id="only the headers that it needs, in one spelling",
        ),
        pytest.param(
            response(b"CONTENT-LENGTH: %d" % len(DESCRIPTION), body=DESCRIPTION.replace(b"\r\n", b"\n\n", 1)),
            b"RTSP/1.0 200 -\r\nCSeq: 1\r\nContent-Length: %d\r\n\r\n" % len(DESCRIPTION) + DESCRIPTION,
            id="a description with strict line ends and its own length",
        ),
        pytest.param(
            response(b"Content-Length: 9", body=b"position\n") + PACKET,
            b"RTSP/1.0 200 -\r\nCSeq: 1\r\n\r\n" + PACKET,
            id="no other body",
        ),
        pytest.param(
            b"\r\n" + PACKET + b"$\x00\x00\x04$\x00\xff\xff" + b"$\x01\x00\x00" + PACKET,
            PACKET * 2,
            id="no packet that FFmpeg would read as a message",
        ),
        pytest.param(
            b"OPTIONS rtsp://h/ RTSP/1.0\r\nCSeq: 7\r\nLocation: rtsp://h/\r\n\r\n",
            b"OPTIONS * RTSP/1.0\r\nCSeq: 7\r\n\r\n",
            id="a request of the camera",
        ),
    ],
)
def test_the_decoder_is_shown_what_was_parsed_and_written_anew(sent: bytes, received: bytes) -> None:
    assert passed_on(sent) == (received, CameraFault.LOST)


HIDDEN = b"RTSP/1.0 302 Found\nLocation: rtsp://10.0.0.1/\n\n"


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        pytest.param(response(b"X: a\n\n" + HIDDEN), CameraFault.NOT_RTSP, id="a redirect behind bare line feeds"),
        pytest.param(response(b"X: a\r" + HIDDEN), CameraFault.NOT_RTSP, id="a bare carriage return"),
        pytest.param(response(b"X: a", b"$\x00\x00\x04abcd"), CameraFault.NOT_RTSP, id="a packet within a header"),
        pytest.param(response(b"X: a", b" b"), CameraFault.NOT_RTSP, id="a folded header"),
        pytest.param(response(b"Content-Length : 4", body=b"abcd"), CameraFault.NOT_RTSP, id="a misspelt header"),
        pytest.param(response(b"X: a\x00b"), CameraFault.NOT_RTSP, id="a zero byte"),
        pytest.param(
            response(b"Content-Length: 0", b"content-length: 4", body=b"abcd"), CameraFault.NOT_RTSP, id="two lengths"
        ),
        pytest.param(response(b"Content-Length: +4", body=b"abcd"), CameraFault.NOT_RTSP, id="a length with a sign"),
        pytest.param(response(b"Content-Length: 99999999"), CameraFault.DESCRIPTION_REFUSED, id="a large body"),
        pytest.param(response(status=b"302 Found"), CameraFault.REDIRECTED, id="a redirect"),
        pytest.param(response(status=b"399"), CameraFault.REDIRECTED, id="a redirect without a name"),
        pytest.param(response(status=b"0302 Found"), CameraFault.NOT_RTSP, id="a status of four digits"),
        pytest.param(b"REDIRECT * RTSP/1.0\r\nCSeq: 1\r\n\r\n", CameraFault.REDIRECTED, id="a request to redirect"),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", CameraFault.NOT_RTSP, id="another protocol"),
        pytest.param(
            response(b"Content-Length: 39", body=b"v=0\r\n a=control:file:///etc/passwd\r\nb=1"),
            CameraFault.DESCRIPTION_REFUSED,
            id="an indented line of a description",
        ),
        pytest.param(
            response(b"Content-Length: 36", body=b"v=0\ra=control:file:///etc/passwd\r\n\r\n"),
            CameraFault.DESCRIPTION_REFUSED,
            id="a bare carriage return in a description",
        ),
        pytest.param(
            response(b"Content-Length: 34", body=b"v=0\na=CONTROL: file:///etc/passwd\n"),
            CameraFault.DESCRIPTION_REFUSED,
            id="a description that leads elsewhere",
        ),
    ],
)
def test_what_could_be_read_in_two_ways_or_leads_elsewhere_ends_the_stream(sent: bytes, fault: CameraFault) -> None:
    assert passed_on(sent) == (b"", fault)
