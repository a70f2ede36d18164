"""A small RTSP server: OPTIONS, DESCRIBE, SETUP and PLAY (RFC 2326) with interleaved H.264 (RFC 6184), Digest
authentication (RFC 7616), and the faults that cameras have.
"""

import asyncio
import base64
import hashlib
import re
import secrets
import ssl
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from types import TracebackType
from typing import Any, Self

import av
import numpy as np

FPS = 25
PAYLOAD_BYTES_MAX = 1200
REALM = "camera"


@cache
def film(width: int, height: int, frames: int = 50) -> tuple[tuple[bytes, ...], ...]:
    """Encoded frames as NAL units; every tenth is a key frame, preceded by its parameter sets."""
    context = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base = Fraction(1, FPS)
    context.options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "x264-params": "keyint=10:repeat-headers=1:slices=1",
    }
    noise = np.random.default_rng(7)
    pictures = []
    for index in range(frames):
        pixels = np.full((height, width, 3), (index * 5) % 256, np.uint8)
        pixels[:32, :32] = noise.integers(0, 255, (32, 32, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(pixels, format="bgr24").reformat(format="yuv420p")
        frame.pts = index
        pictures += [nal_units(bytes(packet)) for packet in context.encode(frame)]
    return tuple(pictures)


def nal_units(annex_b: bytes) -> tuple[bytes, ...]:
    return tuple(part.rstrip(b"\x00") for part in re.split(rb"\x00\x00\x01", annex_b)[1:])


def sps_of_size(macroblocks: int) -> bytes:
    """A sequence parameter set (H.264, 7.3.2.1.1) for a width and height in macroblocks; 0: cropped to zero pixels."""
    bits = ""

    def ue(value: int) -> str:
        code = f"{value + 1:b}"
        return "0" * (len(code) - 1) + code

    for value in (0, 0, 2, 1):  # set id, frame number bits, picture order count type 2, one reference frame
        bits += ue(value)
    bits += "0" + ue(max(macroblocks - 1, 0)) + ue(max(macroblocks - 1, 0)) + "1" + "0"
    bits += "0" if macroblocks else "1" + ue(0) + ue(8) + ue(0) + ue(8)
    bits += "0" + "1"
    bits += "0" * (-len(bits) % 8)
    return b"\x67\x42\x00\x0a" + int(bits, 2).to_bytes(len(bits) // 8, "big")


def packets(nal: bytes) -> list[bytes]:
    """A NAL unit as RTP payloads: itself, or FU-A fragments."""
    if len(nal) <= PAYLOAD_BYTES_MAX:
        return [nal]
    kind, parts = nal[0] & 0x1F, range(1, len(nal), PAYLOAD_BYTES_MAX)
    return [
        bytes([(nal[0] & 0xE0) | 28, (0x80 if at == 1 else 0) | (0x40 if at == parts[-1] else 0) | kind])
        + nal[at : at + PAYLOAD_BYTES_MAX]
        for at in parts
    ]


@dataclass
class FakeCamera:
    """Serves a video in a thread of its own; `fault` selects a defect."""

    user: str = ""
    password: str = ""
    fault: str = ""
    argument: str = ""
    size: tuple[int, int] = (320, 240)
    connections: int = 0
    plays: int = 0
    methods: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    challenges: tuple[str, ...] = ("Digest",)
    stale_after: int = 0
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    port: int = 0
    tls: ssl.SSLContext | None = None

    def __enter__(self) -> Self:
        film(*self.size)
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)

    def url(self, login: str = "", path: str = "/stream") -> str:
        return f"rtsp://{login}127.0.0.1:{self.port}{path}"

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))
        self._loop.close()

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        self._open: set[asyncio.Task[Any]] = set()
        server = await asyncio.start_server(self._client, "127.0.0.1", 0, ssl=self.tls)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await asyncio.sleep(0)  # lets the event loop close their connections

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        playing: asyncio.Task[None] | None = None
        try:
            while True:
                request = await self._read_request(reader)
                self.methods.append(request["method"])
                self.urls.append(request["url"])
                self.logins.append(request.get("authorization", ""))
                if self.fault == "mute":
                    await asyncio.sleep(600)
                await self._answer(writer, request)
                if request["method"] == "PLAY" and playing is None:
                    self.plays += 1
                    playing = asyncio.create_task(self._play(writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            with suppress(OSError, RuntimeError):
                writer.close()  # first, because shutdown may cancel the wait below
            if playing is not None:
                playing.cancel()
                await asyncio.gather(playing, return_exceptions=True)
            self._open.discard(task)

    async def _read_request(self, reader: asyncio.StreamReader) -> dict[str, str]:
        while (first := await reader.readexactly(1)) == b"$":  # the receiver reports of the client
            head = await reader.readexactly(3)
            await reader.readexactly(int.from_bytes(head[1:], "big"))
        lines = (first + await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
        method, url, _ = lines[0].split(" ")
        return {**headers, "method": method, "url": url}

    async def _answer(self, writer: asyncio.StreamWriter, request: dict[str, str]) -> None:
        status, headers, body = self._reply(request)
        lines = [f"RTSP/1.0 {status}", f"CSeq: {request.get('cseq', '0')}", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        raw = "\r\n".join([*lines, "", ""]).encode() + body
        if self.fault == "hidden_redirect" and request["method"] == "OPTIONS":
            # FFmpeg ends the first answer at the two line feeds, and takes the rest for that to its next request.
            hidden = f"RTSP/1.0 302 Found\nCSeq: 2\nLocation: {self.argument}\n\n"
            raw = raw.replace(b"\r\n\r\n", f"\r\nX-Note: a\n\n{hidden}\r\n\r\n".encode())
        if self.fault == "short_packets":
            raw += b"$\x00\x00\x04$\x00\xff\xff"
        if self.fault == "not_rtsp":
            raw = b"SSH-2.0-OpenSSH_9.2\r\n\r\n"
        if self.fault == "endless":
            raw = b"RTSP/1.0 200 OK\r\n" + b"X-Padding: a\r\n" * 100_000
        if self.fault == "drip":
            for at in range(len(raw)):
                writer.write(raw[at : at + 1])
                await writer.drain()
                await asyncio.sleep(1)
        writer.write(raw)
        await writer.drain()

    def _reply(self, request: dict[str, str]) -> tuple[str, list[str], bytes]:
        method = request["method"]
        if method != "OPTIONS" and self.password and not self._is_authorized(request):
            return "401 Unauthorized", [f"WWW-Authenticate: {self._challenge(text)}" for text in self.challenges], b""
        match method:
            case "OPTIONS":
                return "200 OK", ["Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN"], b""
            case "DESCRIBE" if self.fault == "redirect":
                return "302 Found", [f"Location: {self.argument}"], b""
            case "DESCRIBE" if self.fault == "missing":
                return "404 Not Found", [], b""
            case "DESCRIBE":
                base = f"Content-Base: {request['url']}/"
                return "200 OK", ["Content-Type: application/sdp", base], self._description()
            case "SETUP":
                return "200 OK", ["Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 7;timeout=60"], b""
            case "PLAY" | "TEARDOWN" | "GET_PARAMETER":
                return "200 OK", ["Session: 7"], b""
            case _:
                return "501 Not Implemented", [], b""

    def _challenge(self, text: str) -> str:
        """A challenge as the header has it, with this camera's realm and nonce after the scheme."""
        scheme, _, rest = text.partition(" ")
        nonce = f', nonce="{self.nonce}"' if scheme == "Digest" else ""
        return f'{scheme} realm="{REALM}"{nonce}{", " if rest else ""}{rest}'

    def _is_authorized(self, request: dict[str, str]) -> bool:
        """Whether the login is right, by the strongest algorithm of the challenges."""
        header = request.get("authorization", "")
        strongest = next((name for name in ("SHA-256-sess", "SHA-256", "MD5") if name in str(self.challenges)), "")
        if self.challenges == ("Basic",):
            return header == "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        fields = {name: quoted or bare for name, quoted, bare in re.findall(r'(\w+)=(?:"([^"]*)"|([^",\s]+))', header)}
        if fields.get("algorithm", "") != strongest or fields.get("uri") != request["url"]:
            return False
        secret = _hash(strongest, f"{self.user}:{REALM}:{self.password}")
        if strongest.endswith("-sess"):
            secret = _hash(strongest, f"{secret}:{self.nonce}:{fields['cnonce']}")
        middle = self.nonce
        if "qop" in str(self.challenges):
            middle = f"{self.nonce}:{fields.get('nc')}:{fields.get('cnonce')}:{fields.get('qop')}"
        what = _hash(strongest, f"{request['method']}:{fields['uri']}")
        is_right = fields.get("response") == _hash(strongest, f"{secret}:{middle}:{what}")
        self.stale_after -= 1
        if is_right and self.stale_after == 0:
            self.nonce = secrets.token_hex(8)
            self.challenges = tuple(f"{text}, stale=TRUE" for text in self.challenges)
            return False
        return is_right

    def _description(self) -> bytes:
        control = self.argument if self.fault == "control" else "track1"
        connection = "239.1.2.3/16" if self.fault == "multicast" else "0.0.0.0"
        sets = ""
        if self.fault == "sps":
            sps = sps_of_size(int(self.argument))
            sets = f";sprop-parameter-sets={base64.b64encode(sps).decode()},aM4xsg=="
        lines = [
            "v=0",
            "o=- 1 1 IN IP4 127.0.0.1",
            "s=camera",
            f"c=IN IP4 {connection}",
            "t=0 0",
            "m=video 0 RTP/AVP 96",
            "a=rtpmap:96 H264/90000",
            f"a=fmtp:96 packetization-mode=1{sets}",
            f"a=control:{control}",
        ]
        return "\r\n".join([*lines, ""]).encode()

    async def _play(self, writer: asyncio.StreamWriter) -> None:
        sequence, began = secrets.randbelow(60_000), asyncio.get_running_loop().time()
        for index in range(1_000_000):
            width, height = self.size
            if self.fault == "resize" and index // 25 % 2:
                width, height = width * 2, height * 2
            pictures = film(width, height)
            for nal in self._nals(pictures[index % len(pictures)]):
                for last, payload in _marked(packets(nal)):
                    sequence = (sequence + 1) % 65_536
                    head = struct.pack(">BBHII", 0x80, 96 | (0x80 if last else 0), sequence, self._time(index), 1)
                    writer.write(b"$\x00" + struct.pack(">H", len(head + payload)) + head + payload)
            await writer.drain()
            await asyncio.sleep(max(0.0, began + (index + 1) / FPS - asyncio.get_running_loop().time()))
            if self.fault == "drop" and index >= 2 * FPS:
                writer.transport.abort()
                return
            if self.fault == "stall" and index >= FPS:
                await asyncio.sleep(600)

    def _nals(self, picture: tuple[bytes, ...]) -> list[bytes]:
        if self.fault != "sps":
            return list(picture)
        return [sps_of_size(int(self.argument)) if nal[0] & 0x1F == 7 else nal for nal in picture]

    def _time(self, index: int) -> int:
        ticks = index * 90_000 // FPS
        match self.fault:
            case "wrap":
                return (2**32 - 90_000 + ticks) % 2**32
            case "backwards":
                return (2**31 - ticks) % 2**32
            case _:
                return ticks


def _marked(parts: list[bytes]) -> list[tuple[bool, bytes]]:
    return [(part is parts[-1], part) for part in parts]


def _hash(algorithm: str, text: str) -> str:
    return hashlib.new("sha256" if algorithm.startswith("SHA-256") else "md5", text.encode()).hexdigest()
