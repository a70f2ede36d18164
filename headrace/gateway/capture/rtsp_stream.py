"""A camera's stream as the frames that its decoder brings: a door, a process of its own, and deadlines on both."""

import asyncio
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias
from urllib.parse import quote

import orjson

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError
from headrace.gateway.capture.rtsp_proxy import UNIT_S_MAX, CameraAddress, RtspProxy
from headrace.schemas.limits import INLINE_BYTES_MAX

OPEN_S_MAX = 45.0  # until the first frame: the decoder starts, and a camera may be seconds away from a key frame
FRAME_S_MAX = 20.0  # beyond what the frames' own pace takes
_DECODER = Path(__file__).with_name("decoder.py")
_HEAD = struct.Struct(">cI")
_TIME_BYTES = 8
_MESSAGE_BYTES_MAX = INLINE_BYTES_MAX + _TIME_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRequest:
    """What to read: the stream's path, who logs in, and how much of it; `frame_count` 0 is any number."""

    target: str = field(repr=False)
    login: tuple[str, str] | None = field(repr=False)
    fps: float
    duration_s: float
    frame_count: int


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What a stream is."""

    codec: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class CapturedFrame:
    """One frame as a JPEG, and the Unix microsecond at which it came."""

    body: bytes
    captured_at_us: int


StreamItem: TypeAlias = StreamInfo | CapturedFrame


class RtspStream:
    """An open stream; use it in an `async with` block, so that decoder and connection end with it."""

    def __init__(self, place: CameraAddress, wanted: StreamRequest) -> None:
        """Prepare; nothing is connected yet."""
        self._door = RtspProxy(place)
        self._wanted = wanted
        self._decoder: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Connect, and start the decoder.

        Raises:
            StreamLost: nothing answers there.
        """
        try:
            port = await self._door.open()
            self._decoder = await asyncio.create_subprocess_exec(
                # Isolated, and without the service's environment: what it decodes is a stranger's.
                sys.executable,
                "-I",
                str(_DECODER),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env={"LANG": "C.UTF-8"},
                cwd="/",
            )
            assert self._decoder.stdin is not None
            with suppress(OSError):
                self._decoder.stdin.write(self._order(port))
                await self._decoder.stdin.drain()
                self._decoder.stdin.close()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def found(self) -> AsyncIterator[StreamItem]:
        """Yield what the stream is, and then its frames, until there is enough.

        Raises:
            StreamLost: it was lost before.
        """
        wait_s_max = OPEN_S_MAX
        while True:
            try:
                async with asyncio.timeout(wait_s_max):
                    letter, body = await self._message()
            except TimeoutError:
                raise StreamLostError(self._door.fault or CameraFault.SILENT) from None
            except (OSError, asyncio.IncompleteReadError):
                raise StreamLostError(self._door.fault or CameraFault.DECODER_DIED) from None
            match letter:
                case b"I":
                    yield StreamInfo(**orjson.loads(body))
                case b"F":
                    yield CapturedFrame(body[_TIME_BYTES:], int.from_bytes(body[:_TIME_BYTES], "big"))
                case _:
                    self._end(orjson.loads(body)["code"])
                    return
            wait_s_max = FRAME_S_MAX + 2 / self._wanted.fps

    async def _message(self) -> tuple[bytes, bytes]:
        assert self._decoder is not None
        assert self._decoder.stdout is not None
        letter, size_bytes = _HEAD.unpack(await self._decoder.stdout.readexactly(_HEAD.size))
        if size_bytes > _MESSAGE_BYTES_MAX:
            raise StreamLostError(CameraFault.TOO_LARGE)
        return letter, await self._decoder.stdout.readexactly(size_bytes)

    def _end(self, code: str) -> None:
        if code == "done":
            return
        told = CameraFault(code) if code in set(CameraFault) else CameraFault.BROKEN
        # The door saw what the camera said; the decoder only that it came to an end.
        raise StreamLostError((self._door.fault or told) if told is CameraFault.LOST else told)

    async def _close(self) -> None:
        if self._decoder is not None:
            with suppress(ProcessLookupError):
                self._decoder.kill()
            await self._decoder.wait()
        await self._door.close()

    def _order(self, port: int) -> bytes:
        wanted, login = self._wanted, ""
        if wanted.login is not None:
            login = ":".join(quote(part, safe="") for part in wanted.login) + "@"
        return orjson.dumps(
            {
                "url": f"rtsp://{login}127.0.0.1:{port}{wanted.target}",
                "fps": wanted.fps,
                "duration_s": wanted.duration_s,
                "frame_count": wanted.frame_count,
                # The door ends what takes too long, and knows why; this is for a door that does not.
                "wait_s_max": UNIT_S_MAX * 2,
            }
        )
