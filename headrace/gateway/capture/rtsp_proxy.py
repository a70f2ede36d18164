"""The one connection between the decoder and a camera: to the address that was checked, and nowhere else.

FFmpeg speaks RTSP to this door on loopback, and the door to the camera. So FFmpeg never resolves a name, never follows
a redirect, and never does TLS; and what the camera answers is looked at before FFmpeg sees it. RTSP with interleaved
data (RFC 2326, section 10.12) is one stream of answers and `$` packets, so a look at their heads is enough.

Time counts only while something is waited for from the camera: a decoder that is slow is not laid at its door.
"""

import asyncio
import re
import ssl
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError

CONNECT_S_MAX = 8.0
UNIT_S_MAX = 10.0  # in which an answer or a packet has to be whole
HEAD_BYTES_MAX = 64 * 1024
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
    """Where a camera is: numeric addresses that were checked, and the name on its certificate where it speaks TLS."""

    addresses: Sequence[str]
    port: int
    tls_name: str | None = None


class RtspProxy:
    """Opens once, for one decoder; `fault` says what was wrong with the camera."""

    def __init__(self, place: CameraAddress) -> None:
        """Prepare; nothing is connected yet."""
        self._place = place
        self._server: asyncio.Server | None = None
        self._camera: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._decoder: asyncio.StreamWriter | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()
        self._fault: CameraFault | None = None
        self._status = 0
        self._plays = False

    @property
    def fault(self) -> CameraFault | None:
        """What was wrong with the camera; None where nothing was."""
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
        """Connect to the camera, and return the port on loopback where its decoder may come.

        Raises:
            StreamLost: nothing answers there, or its certificate is not good.
        """
        self._camera = await self._connected()
        self._server = await asyncio.start_server(self._serve, _LOOPBACK, 0, backlog=1)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        """End the connection."""
        if self._server is not None:
            self._server.close()
        if self._pumping is not None:
            self._pumping.cancel()
            with suppress(asyncio.CancelledError):
                await self._pumping
        for writer in (self._decoder, self._camera[1] if self._camera else None):
            if writer is not None:
                writer.transport.abort()
        await asyncio.sleep(0)  # in which the loop closes them

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        fault = CameraFault.UNREACHABLE
        # Trusts what the system trusts, or what SSL_CERT_FILE names.
        tls = None if self._place.tls_name is None else ssl.create_default_context()
        for address in self._place.addresses:
            try:
                async with asyncio.timeout(CONNECT_S_MAX):
                    return await asyncio.open_connection(
                        address,
                        self._place.port,
                        limit=HEAD_BYTES_MAX,
                        ssl=tls,
                        server_hostname=self._place.tls_name,
                    )
            except ssl.SSLCertVerificationError:
                fault = CameraFault.CERTIFICATE_REFUSED
            except (OSError, TimeoutError):
                continue
        raise StreamLostError(fault)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or self._pumping is not None:
            writer.transport.abort()
            return
        self._server.close()  # one decoder, and nobody after it
        assert self._camera is not None
        self._pumping = asyncio.current_task()
        self._decoder = writer
        both = [
            asyncio.create_task(self._questions(reader, self._camera[1])),
            asyncio.create_task(self._answers(self._camera[0], writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            with suppress(OSError):
                writer.close()  # what was written is sent first, so that FFmpeg sees the last answer

    async def _questions(self, reader: asyncio.StreamReader, camera: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                self._asked.set()
                camera.write(chunk)
                await camera.drain()

    async def _answers(self, camera: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._asked.wait()
        try:
            while True:
                async with asyncio.timeout(UNIT_S_MAX):
                    unit = await self._unit(camera)
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

    async def _unit(self, camera: asyncio.StreamReader) -> bytes:
        """Return the next packet or answer, whole."""
        first = await camera.readexactly(1)
        if first == _DATA:
            self._plays = True
            head = await camera.readexactly(3)
            return first + head + await camera.readexactly(int.from_bytes(head[1:], "big"))
        head = first + await camera.readuntil(b"\r\n\r\n")
        self._look_at(head)
        length = _LENGTH.search(head)
        size_bytes = int(length[1]) if length else 0
        if size_bytes > DESCRIPTION_BYTES_MAX:
            raise StreamLostError(CameraFault.DESCRIPTION_REFUSED)
        body = await camera.readexactly(size_bytes)
        if any(scheme.lower() not in {b"rtsp", b"rtsps"} for scheme in _CONTROL.findall(body)):
            raise StreamLostError(CameraFault.DESCRIPTION_REFUSED)
        return head + body

    def _look_at(self, head: bytes) -> None:
        head = head.lstrip(b"\r\n")
        if answer := _STATUS.match(head):
            status = int(answer["status"])
            if 300 <= status < 400:
                raise StreamLostError(CameraFault.REDIRECTED)
            # Once it plays, what it says to a sign of life says nothing of the stream.
            self._status = self._status if self._plays else status
        elif question := _REQUEST.match(head):
            if question["method"] == b"REDIRECT":
                raise StreamLostError(CameraFault.REDIRECTED)
        else:
            raise StreamLostError(CameraFault.NOT_RTSP)
