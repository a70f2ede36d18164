"""A proxy between the decoder and a camera: it connects to the checked address and to no other.

FFmpeg connects to this proxy on the loopback interface, and the proxy connects to the camera. FFmpeg thus never
resolves a name, follows a redirect, or uses TLS, and the proxy inspects the camera's responses before FFmpeg sees them.
RTSP with interleaved data (RFC 2326, section 10.12) is one stream of responses and `$` packets, so inspecting their
headers is enough.

The timeouts count only while the proxy waits for the camera: a slow decoder is not the camera's fault.
"""

import asyncio
import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError

CONNECT_S_MAX = 8.0
UNIT_S_MAX = 10.0  # for one complete response or packet
HEADER_BYTES_MAX = 64 * 1024
DESCRIPTION_BYTES_MAX = 256 * 1024
_CHUNK_BYTES = 64 * 1024
_LOOPBACK = "127.0.0.1"
_DATA = b"$"

_STATUS = re.compile(rb"RTSP/\d\.\d (?P<status>\d{3})\b")
_REQUEST = re.compile(rb"(?P<method>[A-Z_]{3,20}) \S+ RTSP/\d\.\d\r\n")
_LENGTH = re.compile(rb"\r\nContent-Length:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_CONTROL = re.compile(rb"^a=control:[ \t]*([A-Za-z][A-Za-z0-9+.-]*):", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CameraAddress:
    """A camera's checked IP addresses and port; `tls_name` is the host name on its certificate, None without TLS."""

    addresses: Sequence[str]
    port: int
    tls_name: str | None = None


class RtspProxy:
    """Serves one decoder; `fault` says what was wrong with the camera."""

    def __init__(self, address: CameraAddress) -> None:
        """Prepare; nothing is connected yet."""
        self._address = address
        self._server: asyncio.Server | None = None
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

    async def open(self) -> int:
        """Connect to the camera, and return the loopback port for its decoder.

        Raises:
            StreamLostError: the camera does not accept connections, or its certificate is not valid.
        """
        self._camera = await self._connect()
        self._server = await asyncio.start_server(self._serve, _LOOPBACK, 0, backlog=1)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """Close the connections."""
        if self._server is not None:
            self._server.close()
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or self._relaying is not None:
            writer.transport.abort()
            return
        self._server.close()  # accepts one decoder only
        assert self._camera is not None
        self._relaying = asyncio.current_task()
        self._decoder = writer
        tasks = [
            asyncio.create_task(self._relay_requests(reader, self._camera[1])),
            asyncio.create_task(self._relay_responses(self._camera[0], writer)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(OSError):
                writer.close()  # flushes first, so that FFmpeg sees the last response

    async def _relay_requests(self, reader: asyncio.StreamReader, camera: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                self._request_seen.set()
                camera.write(chunk)
                await camera.drain()

    async def _relay_responses(self, camera: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._request_seen.wait()
        try:
            while True:
                async with asyncio.timeout(UNIT_S_MAX):
                    unit = await self._read_unit(camera)
                writer.write(unit)
                await writer.drain()
        except StreamLostError as lost:
            self._fault = lost.fault
        except TimeoutError:
            self._fault = CameraFault.SILENT
        except asyncio.LimitOverrunError:
            self._fault = CameraFault.NOT_RTSP
        except (OSError, asyncio.IncompleteReadError):
            self._fault = CameraFault.LOST

    async def _read_unit(self, camera: asyncio.StreamReader) -> bytes:
        """Return the next complete packet or response."""
        first = await camera.readexactly(1)
        if first == _DATA:
            self._playing = True
            header = await camera.readexactly(3)
            return first + header + await camera.readexactly(int.from_bytes(header[1:], "big"))
        header = first + await camera.readuntil(b"\r\n\r\n")
        self._inspect(header)
        length = _LENGTH.search(header)
        size_bytes = int(length[1]) if length else 0
        if size_bytes > DESCRIPTION_BYTES_MAX:
            raise StreamLostError(CameraFault.DESCRIPTION_REFUSED)
        body = await camera.readexactly(size_bytes)
        if any(scheme.lower() not in {b"rtsp", b"rtsps"} for scheme in _CONTROL.findall(body)):
            raise StreamLostError(CameraFault.DESCRIPTION_REFUSED)
        return header + body

    def _inspect(self, header: bytes) -> None:
        header = header.lstrip(b"\r\n")
        if response := _STATUS.match(header):
            status = int(response["status"])
            if 300 <= status < 400:
                raise StreamLostError(CameraFault.REDIRECTED)
            # While it plays, the response to a keep-alive says nothing about the stream.
            self._status = self._status if self._playing else status
        elif request := _REQUEST.match(header):
            if request["method"] == b"REDIRECT":
                raise StreamLostError(CameraFault.REDIRECTED)
        else:
            raise StreamLostError(CameraFault.NOT_RTSP)
