"""Decodes one RTSP stream in a process of its own: `python headrace/gateway/capture/decoder.py`.

Standard input is the socket to the proxy. The first line that it brings is the request as JSON, in which the camera's
URL and login are not; from then on it is FFmpeg's connection to the camera. Standard output carries messages:
a type (one letter), the length (four bytes, big-endian), and the body. `I`: the stream's properties, as JSON. `F`:
eight bytes with the Unix microsecond of a frame's capture, and its JPEG. `E`: how the stream ended, as JSON. A slow
reader slows the camera down, so nothing is buffered here.

Frames are selected and counted by this machine's clock: a camera's time stamps may run backwards.
"""

import json
import resource
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
import av.subtitles.stream  # imported by av.open otherwise, which is then confined
from av.error import FFmpegError

from headrace.gateway.capture.confinement import INHERITED_SOCKET, confine
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB

STREAM_PIXELS_MAX = 8192 * 4608  # a little more than 8K
MEMORY_BYTES_MAX = 1024 * MIB
DAMAGED_PACKETS_MAX = 100  # consecutive packets that cannot be decoded
_MICROSECONDS = 1_000_000
_ANY_PORT = 554  # a confined process gets the inherited socket, whatever it connects to
_HEADER = struct.Struct(">cI")
_CHUNK_BYTES = 64 * 1024


class DecoderEndedError(Exception):
    """Raised when decoding cannot continue; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Encoder:
    """Encodes decoded frames as JPEGs; the frame size may change within a stream."""

    def __init__(self) -> None:
        """Start without a size."""
        self._size = (0, 0)
        self._context: Any = None
        self._count = 0

    def jpeg(self, frame: Any) -> bytes:
        """Return the frame as a JPEG.

        Raises:
            DecoderEndedError: the frame is too large.
        """
        if frame.width * frame.height > STREAM_PIXELS_MAX:
            raise DecoderEndedError("too_large")
        if self._size != (frame.width, frame.height):
            self._size = (frame.width, frame.height)
            self._context = av.CodecContext.create("mjpeg", "w")
            self._context.width, self._context.height = self._size
            self._context.pix_fmt = "yuvj420p"
            self._context.time_base = Fraction(1, 1000)
            self._context.options = {"qmin": "2", "qmax": "5"}
        converted = frame.reformat(format="yuvj420p", dst_color_range="JPEG")
        self._count += 1
        converted.pts, converted.time_base = self._count, Fraction(1, 1000)
        body = b"".join(bytes(packet) for packet in self._context.encode(converted))
        if len(body) > INLINE_BYTES_MAX:
            raise DecoderEndedError("too_large")
        return body


def main() -> int:
    """Decode until there are enough frames or the stream ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    av.logging.set_level(av.logging.PANIC)
    with open(INHERITED_SOCKET, "rb", buffering=0, closefd=False) as stream:
        request = json.loads(stream.readline())
    try:
        code = _decode_stream(request)
    except DecoderEndedError as ended:
        code = ended.code
    except FFmpegError:
        code = "lost"
    except MemoryError:
        code = "too_large"
    _write(b"E", json.dumps({"code": code}).encode())
    return 0


def _decode_stream(request: dict[str, Any]) -> str:
    if request["confined"]:
        confine()
    port = _ANY_PORT if request["confined"] else _listen_for_ffmpeg()
    url = f"rtsp://127.0.0.1:{port}{request['target']}"
    options = {
        "rtsp_transport": "tcp",
        "protocol_whitelist": "rtsp,tcp,rtp",
        "allowed_media_types": "video",
        "timeout": str(int(request["wait_s_max"] * _MICROSECONDS)),
        "analyzeduration": str(2 * _MICROSECONDS),
        "max_delay": "0",
    }
    wait_s_max = (request["wait_s_max"], request["wait_s_max"])
    with av.open(url, format="rtsp", options=options, timeout=wait_s_max) as container:
        if not container.streams.video:
            return "no_video"
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # one frame at a time, without copies for threads
        return _write_frames(container, stream, request)


def _write_frames(container: Any, stream: Any, request: dict[str, Any]) -> str:
    encoder = Encoder()
    period_s, remaining = 1 / request["fps"], request["frame_count"]
    next_s = end_s = 0.0
    for frame in _decoded_frames(container, stream):
        now_s = time.monotonic()
        if not end_s:
            end_s = now_s + request["duration_s"]
            info = {"codec": stream.codec_context.name, "width": frame.width, "height": frame.height}
            _write(b"I", json.dumps(info).encode())
        if now_s > end_s:
            return "done"
        if now_s < next_s:
            continue
        # On a fixed grid, so that rounding errors do not add up; after a gap there is no burst of frames.
        next_s = max(next_s + period_s, now_s + period_s / 2)
        _write(b"F", struct.pack(">q", time.time_ns() // 1000) + encoder.jpeg(frame))
        remaining -= 1
        if remaining == 0:
            return "done"
    return "lost"


def _decoded_frames(container: Any, stream: Any) -> Iterator[Any]:
    damaged_packets = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError:
            damaged_packets += 1
            if damaged_packets > DAMAGED_PACKETS_MAX:
                raise DecoderEndedError("undecodable") from None
            continue
        damaged_packets = 0 if frames else damaged_packets
        yield from frames


def _listen_for_ffmpeg() -> int:
    """Return a port on loopback for FFmpeg that leads to the inherited socket: without confinement it needs its own."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1)
    threading.Thread(target=_join, args=(listener,), daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def _join(listener: socket.socket) -> None:
    ffmpeg, _ = listener.accept()
    listener.close()
    proxy = socket.socket(fileno=INHERITED_SOCKET)
    threading.Thread(target=_copy, args=(ffmpeg, proxy), daemon=True).start()
    _copy(proxy, ffmpeg)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(_CHUNK_BYTES):
            target.sendall(chunk)
        target.shutdown(socket.SHUT_WR)


def _write(message_type: bytes, body: bytes) -> None:
    sys.stdout.buffer.write(_HEADER.pack(message_type, len(body)) + body)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
