"""A proxy between the decoder and a camera: it connects to the checked address and to no other.

FFmpeg speaks to this proxy over a socket that its process inherits, and the proxy connects to the camera. FFmpeg thus
never resolves a name, follows a redirect, uses TLS, or knows the login. Both see only what the proxy has parsed and
written anew. RTSP with interleaved data (RFC 2326, section 10.12) is one stream of messages and `$` packets.

The timeouts count only while the proxy waits for the camera: a slow decoder is not the camera's fault.
"""

import asyncio
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import socket

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError
from headrace.gateway.capture.camera_url import DEFAULT_PORTS
from headrace.gateway.capture.rtsp_messages import PACKET_BYTES_MIN, parse_message, parsed_length
from headrace.gateway.capture.rtsp_requests import RequestWriter
from headrace.runtime.addresses import authority_of

CONNECT_S_MAX = 8.0
UNIT_S_MAX = 10.0  # for one complete message or packet
HEADER_BYTES_MAX = 64 * 1024
_DATA = b"$"


@dataclass(frozen=True, slots=True)
class CameraAddress:
    """A camera's checked IP addresses and port; `tls_name` is the host name on its certificate, None without TLS."""

    addresses: Sequence[str]
    port: int
    tls_name: str | None = None
    host: str | None = None
    """The host name in the camera's URL; None for the first address."""

    @property
    def authority(self) -> str:
        """Host and port of the request URI."""
        return authority_of(self.host or self.addresses[0], self.port, DEFAULT_PORTS["rtsp"])


class RtspProxy:
    """Serves one decoder; `fault` says what was wrong with the camera."""

    def __init__(self, address: CameraAddress, target: str = "", login: tuple[str, str] | None = None) -> None:
        """Prepare for the stream with this path and query; nothing is connected yet."""
        self._address = address
        self._requests = RequestWriter(address.authority, target, login)
        self._camera: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._decoder: asyncio.StreamWriter | None = None
        self._relaying: asyncio.Task[None] | None = None
        self._request_seen = asyncio.Event()
        self._fault: CameraFault | None = None
        self._status = 0
        self._playing = False

    @property
    def fault(self) -> CameraFault | None:
        """What was wrong with the camera; None for nothing."""
        if self._fault is not None and not (self._fault is CameraFault.LOST and self._status >= 400):
            return self._fault
        match self._status:
            case 401 | 403:
                return CameraFault.LOGIN_REFUSED
            case 404:
                return CameraFault.STREAM_UNKNOWN
            case status if status >= 400:
                return CameraFault.CAMERA_REFUSED
            case _:
                return self._fault

    async def open(self) -> None:
        """Connect to the camera.

        Raises:
            StreamLostError: the camera does not accept connections, or its certificate is not valid.
        """
        self._camera = await self._connect()

    async def serve(self, decoder: socket, request: bytes) -> None:
        """Send the decoder its request over a connected socket, and relay between it and the camera from then on."""
        assert self._camera is not None
        reader, self._decoder = await asyncio.open_connection(sock=decoder)
        self._decoder.write(request)
        self._relaying = asyncio.create_task(self._relay(reader, self._decoder, self._camera))

    async def close(self) -> None:
        """Close the connections."""
        if self._relaying is not None:
            self._relaying.cancel()
            with suppress(asyncio.CancelledError):
                await self._relaying
        for writer in (self._decoder, self._camera[1] if self._camera else None):
            if writer is not None:
                writer.transport.abort()
        await asyncio.sleep(0)  # lets the event loop close them

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        fault = CameraFault.UNREACHABLE
        # Trusts the system's certificate authorities, or those in SSL_CERT_FILE.
        tls = None if self._address.tls_name is None else ssl.create_default_context()
        for address in self._address.addresses:
            try:
                async with asyncio.timeout(CONNECT_S_MAX):
                    return await asyncio.open_connection(
                        address,
                        self._address.port,
                        limit=HEADER_BYTES_MAX,
                        ssl=tls,
                        server_hostname=self._address.tls_name,
                    )
            except ssl.SSLCertVerificationError:
                fault = CameraFault.CERTIFICATE_REFUSED
            except (OSError, TimeoutError):
                continue
        raise StreamLostError(fault)

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        camera: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        tasks = [
            asyncio.create_task(self._relay_requests(reader, camera[1])),
            asyncio.create_task(self._relay_responses(camera, writer)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(OSError):
                writer.close()  # flushes first, so that FFmpeg sees the last message

    async def _relay_requests(self, reader: asyncio.StreamReader, camera: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, StreamLostError):
            while True:
                unit = await self._read_request(reader)
                self._request_seen.set()
                camera.write(unit)
                await camera.drain()

    async def _read_request(self, reader: asyncio.StreamReader) -> bytes:
        """Return the next packet or request of the decoder for the camera; empty for an empty line."""
        first = await reader.readexactly(1)
        if first == _DATA:
            header = await reader.readexactly(3)
            return first + header + await reader.readexactly(int.from_bytes(header[1:], "big"))
        lines = await _read_lines(reader, first)
        if not lines:
            return b""
        lengths = [line.partition(b":")[2] for line in lines if line.lower().startswith(b"content-length:")]
        return self._requests.write(lines, await reader.readexactly(parsed_length(lengths)))

    async def _relay_responses(
        self, camera: tuple[asyncio.StreamReader, asyncio.StreamWriter], writer: asyncio.StreamWriter
    ) -> None:
        await self._request_seen.wait()
        try:
            while True:
                async with asyncio.timeout(UNIT_S_MAX):
                    unit = await self._read_unit(camera[0], camera[1])
                if not await _is_sent(unit, writer):
                    return  # the decoder ended, which says nothing about the camera
        except StreamLostError as lost:
            self._fault = lost.fault
        except TimeoutError:
            self._fault = CameraFault.SILENT
        except asyncio.LimitOverrunError:
            self._fault = CameraFault.NOT_RTSP
        except (OSError, asyncio.IncompleteReadError):
            self._fault = CameraFault.LOST

    async def _read_unit(self, camera: asyncio.StreamReader, requests: asyncio.StreamWriter) -> bytes:
        """Return the next complete packet or message for the decoder; empty for what is not passed on."""
        first = await camera.readexactly(1)
        if first == _DATA:
            self._playing = True
            header = await camera.readexactly(3)
            payload = await camera.readexactly(int.from_bytes(header[1:], "big"))
            return first + header + payload if len(payload) >= PACKET_BYTES_MIN else b""
        lines = await _read_lines(camera, first)
        if not lines:
            return b""
        message = parse_message(lines)
        body = await camera.readexactly(message.body_bytes)
        if message.status is not None and message.status >= 200:
            repeated, message = self._requests.again(message)
            if repeated is not None:
                requests.write(repeated)
                await requests.drain()
                return b""
        if message.status is not None and not self._playing:
            # While it plays, the response to a keep-alive says nothing about the stream.
            self._status = message.status
        return message.serialize(body)


async def _is_sent(unit: bytes, writer: asyncio.StreamWriter) -> bool:
    try:
        writer.write(unit)
        await writer.drain()
    except OSError:
        return False
    return True


async def _read_lines(camera: asyncio.StreamReader, first: bytes) -> list[bytes]:
    """Return the lines up to the empty one, without their line ends; none for an empty line between messages."""
    lines: list[bytes] = []
    size_bytes = 0
    while True:
        line = first + await camera.readuntil(b"\n")
        first = b""
        size_bytes += len(line)
        if size_bytes > HEADER_BYTES_MAX or not line.endswith(b"\r\n"):
            raise StreamLostError(CameraFault.NOT_RTSP)
        if line == b"\r\n":
            return lines
        lines.append(line[:-2])
