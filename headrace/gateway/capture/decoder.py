"""Decodes one RTSP stream: a program that may die alone, `python headrace/gateway/capture/decoder.py`.

Standard input says what to read, as JSON, so that no login stands among a process's arguments. Standard output brings
messages: a letter, four bytes of length, a body. `I`: what the stream is, as JSON. `F`: eight bytes with the Unix
microsecond at which a frame came, and its JPEG. `E`: how it ended, as JSON. Whoever reads slowly slows the camera down,
so nothing piles up here.

Frames are chosen, and counted, by the clock on the wall: a camera's time stamps may run backwards.
"""

import json
import resource
import struct
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
from av.error import FFmpegError

from headrace.schemas.limits import INLINE_BYTES_MAX, MIB

STREAM_PIXELS_MAX = 8192 * 4608  # a little more than 8K
MEMORY_BYTES_MAX = 1024 * MIB
DAMAGED_IN_A_ROW_MAX = 100
_MICROSECONDS = 1_000_000
_HEAD = struct.Struct(">cI")


class DecoderEndedError(Exception):
    """There is nothing more to read; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Encoder:
    """Turns decoded frames into JPEGs; a stream may change its size."""

    def __init__(self) -> None:
        """Begin without a size."""
        self._size = (0, 0)
        self._context: Any = None
        self._count = 0

    def jpeg(self, frame: Any) -> bytes:
        """Return the frame as a JPEG.

        Raises:
            Ended: it is too large.
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
        shown = frame.reformat(format="yuvj420p", dst_color_range="JPEG")
        self._count += 1
        shown.pts, shown.time_base = self._count, Fraction(1, 1000)
        body = b"".join(bytes(packet) for packet in self._context.encode(shown))
        if len(body) > INLINE_BYTES_MAX:
            raise DecoderEndedError("too_large")
        return body


def main() -> int:
    """Read until there is enough, or no more."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX))
    for what in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(what, (0, 0))
    av.logging.set_level(av.logging.PANIC)
    asked = json.loads(sys.stdin.buffer.read())
    try:
        code = _read(asked)
    except DecoderEndedError as ended:
        code = ended.code
    except FFmpegError:
        code = "lost"
    except MemoryError:
        code = "too_large"
    _say(b"E", json.dumps({"code": code}).encode())
    return 0


def _read(asked: dict[str, Any]) -> str:
    options = {
        "rtsp_transport": "tcp",
        "protocol_whitelist": "rtsp,tcp,rtp",
        "allowed_media_types": "video",
        "timeout": str(int(asked["wait_s_max"] * _MICROSECONDS)),
        "analyzeduration": str(2 * _MICROSECONDS),
        "max_delay": "0",
    }
    wait_s_max = (asked["wait_s_max"], asked["wait_s_max"])
    with av.open(asked["url"], format="rtsp", options=options, timeout=wait_s_max) as container:
        if not container.streams.video:
            return "no_video"
        stream = container.streams.video[0]
        stream.thread_type = "NONE"  # frames one by one, and no copies for threads
        return _frames(container, stream, asked)


def _frames(container: Any, stream: Any, asked: dict[str, Any]) -> str:
    encoder = Encoder()
    period_s, left = 1 / asked["fps"], asked["frame_count"]
    next_s = end_s = 0.0
    for frame in _decoded(container, stream):
        now_s = time.monotonic()
        if not end_s:
            end_s = now_s + asked["duration_s"]
            about = {"codec": stream.codec_context.name, "width": frame.width, "height": frame.height}
            _say(b"I", json.dumps(about).encode())
        if now_s > end_s:
            return "done"
        if now_s < next_s:
            continue
        # On a grid, so that rounding does not add up; a gap is not made up for by frames in quick succession.
        next_s = max(next_s + period_s, now_s + period_s / 2)
        _say(b"F", struct.pack(">q", time.time_ns() // 1000) + encoder.jpeg(frame))
        left -= 1
        if left == 0:
            return "done"
    return "lost"


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    damaged = 0
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError:
            damaged += 1
            if damaged > DAMAGED_IN_A_ROW_MAX:
                raise DecoderEndedError("undecodable") from None
            continue
        damaged = 0 if frames else damaged
        yield from frames


def _say(letter: bytes, body: bytes) -> None:
    sys.stdout.buffer.write(_HEAD.pack(letter, len(body)) + body)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
