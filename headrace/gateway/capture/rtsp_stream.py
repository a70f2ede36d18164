"""Reads a camera's stream as decoded frames, through a proxy and a decoder process, both with deadlines."""

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import orjson

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError
from headrace.gateway.capture.rtsp_proxy import UNIT_S_MAX, CameraAddress, RtspProxy
from headrace.gateway.capture.rtsp_requests import decoder_target
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.setting_names import variable
from headrace.schemas.limits import INLINE_BYTES_MAX

OPEN_S_MAX = 45.0  # until the first frame: the decoder starts, and the next key frame may be seconds away
FRAME_S_MAX = 20.0  # beyond the interval between frames
_DECODER = Path(__file__).with_name("decoder.py")
_CONFINEMENT = Path(__file__).with_name("confinement.py")
_HEADER = struct.Struct(">cI")
_TIME_BYTES = 8
_MESSAGE_BYTES_MAX = INLINE_BYTES_MAX + _TIME_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRequest:
    """What to read: the stream's path and query, the login, and how much; `frame_count` 0 means unlimited."""

    target: str = field(repr=False)
    login: tuple[str, str] | None = field(repr=False)
    fps: float
    duration_s: float
    frame_count: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The properties of a stream."""

    codec: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One frame as a JPEG, and when it was captured in Unix microseconds."""

    body: bytes
    captured_at_us: int


StreamItem: TypeAlias = StreamInfo | CapturedFrame


class RtspStream:
    """An open stream; an `async with` block ends its decoder and its connection."""

    def __init__(self, address: CameraAddress, request: StreamRequest, *, confined: bool = True) -> None:
        """Prepare; nothing is connected yet."""
        self._proxy = RtspProxy(address, request.target, request.login)
        self._request = request
        self._confined = confined
        self._decoder: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Connect, and start the decoder.

        Raises:
            StreamLostError: the camera does not accept connections.
        """
        try:
            await self._proxy.open()
            ours, inherited = socket.socketpair()
            with inherited:
                self._decoder = await _start(_DECODER, inherited)
            await self._proxy.serve(ours, self._decoder_request())
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def items(self) -> AsyncIterator[StreamItem]:
        """Yield the stream's properties, then its frames, up to the requested count or duration.

        Raises:
            StreamLostError: the stream ended before.
        """
        wait_s_max = OPEN_S_MAX
        while True:
            try:
                async with asyncio.timeout(wait_s_max):
                    message_type, body = await self._read_message()
            except TimeoutError:
                raise StreamLostError(self._proxy.fault or CameraFault.SILENT) from None
            except (OSError, asyncio.IncompleteReadError):
                raise StreamLostError(self._proxy.fault or CameraFault.DECODER_DIED) from None
            match message_type:
                case b"I":
                    yield StreamInfo(**orjson.loads(body))
                case b"F":
                    yield CapturedFrame(body[_TIME_BYTES:], int.from_bytes(body[:_TIME_BYTES], "big"))
                case _:
                    self._check_end(orjson.loads(body)["code"])
                    return
            wait_s_max = FRAME_S_MAX + 2 / self._request.fps

    async def _read_message(self) -> tuple[bytes, bytes]:
        assert self._decoder is not None
        assert self._decoder.stdout is not None
        message_type, size_bytes = _HEADER.unpack(await self._decoder.stdout.readexactly(_HEADER.size))
        if size_bytes > _MESSAGE_BYTES_MAX:
            raise StreamLostError(CameraFault.TOO_LARGE)
        return message_type, await self._decoder.stdout.readexactly(size_bytes)

    def _check_end(self, code: str) -> None:
        if code == "done":
            return
        fault = CameraFault(code) if code in set(CameraFault) else CameraFault.BROKEN
        # The proxy saw the camera's responses; the decoder only saw the connection end.
        raise StreamLostError((self._proxy.fault or fault) if fault is CameraFault.LOST else fault)

    async def _close(self) -> None:
        if self._decoder is not None:
            with suppress(ProcessLookupError):
                self._decoder.kill()
            await self._decoder.wait()
        await self._proxy.close()

    def _decoder_request(self) -> bytes:
        request = self._request
        return orjson.dumps(
            {
                "target": decoder_target(request.target),
                "confined": self._confined,
                "fps": request.fps,
                "duration_s": request.duration_s,
                "frame_count": request.frame_count,
                # The proxy's shorter timeouts come first and name the fault; this one is the fallback.
                "wait_s_max": UNIT_S_MAX * 2,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )


async def require_confinement() -> None:
    """Try out, in a process of its own, that decoders can be confined.

    Raises:
        HeadraceError: they cannot.
    """
    ours, inherited = socket.socketpair()
    with ours, inherited:
        trial = await _start(_CONFINEMENT, inherited)
        output, _ = await trial.communicate()
    if trial.returncode:
        raise HeadraceError(
            "decoder_not_confined",
            f"decoders of cameras' streams cannot be kept from the network: {output.decode(errors='replace')}",
            hint=f"It needs Linux with seccomp; {variable('capture_confinement')}=off starts without it.",
            exit_code=Exit.USAGE,
        )


async def _start(script: Path, stdin: socket.socket) -> asyncio.subprocess.Process:
    """Start a script isolated and without the service's environment: its input is not trusted."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(script),
        stdin=stdin.fileno(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={"LANG": "C.UTF-8"},
        cwd="/",
    )
