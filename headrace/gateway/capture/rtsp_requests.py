"""Writes the decoder's requests anew for the camera: with the camera's own URL, and with its login. No I/O.

The decoder knows neither: it asks for a path of this module. A camera that serves several hosts sees its own name, path
and query arrive as they were given (FFmpeg takes `?tcp` and the like as options of its own), and Digest works with
algorithms that FFmpeg does not have. The camera gets sequence numbers of this connection, the decoder its own.
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError
from headrace.gateway.capture.rtsp_login import CameraChallenge
from headrace.gateway.capture.rtsp_messages import CameraMessage

REQUEST_BYTES_MAX = 64 * 1024  # of a body
ATTEMPTS_MAX = 3  # of one request: without login, with it, and with a new nonce

_START = re.compile(rb"(?P<method>[A-Z_]{3,20}) (?P<uri>\S+) RTSP/1\.0")
_PATH = "/~headrace~"
_LOCAL = re.compile(rb"rtsp://127\.0\.0\.1(?::[0-9]{1,5})?%s(?P<rest>|/.*)" % _PATH.encode(), re.DOTALL)
_DROPPED = {b"authorization", b"cseq"}


def decoder_target(target: str) -> str:
    """Return the path by which the decoder asks for the camera's path and query; it appends `/` and a track to both."""
    return f"{_PATH}/" if target.endswith("/") else _PATH


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    uri: str
    lines: tuple[bytes, ...]
    body: bytes
    number: bytes
    """The decoder's CSeq."""
    attempts: int = 0
    has_login: bool = False


class RequestWriter:
    """The requests of one decoder, in their order: a camera answers them in it."""

    def __init__(self, authority: str, target: str, login: tuple[str, str] | None) -> None:
        """Write requests for the stream `rtsp://authority/target`."""
        self._url = f"rtsp://{authority}{target.removesuffix('/')}"
        self._login = login
        self._challenge: CameraChallenge | None = None
        self._unanswered: deque[_Request] = deque()
        self._sent = 0

    def write(self, lines: Sequence[bytes], body: bytes) -> bytes:
        """Return a request of the decoder for the camera.

        Raises:
            StreamLostError: it is not RTSP.
        """
        start = _START.fullmatch(lines[0])
        if start is None:
            raise StreamLostError(CameraFault.DECODER_DIED)
        uri = start["uri"]
        if local := _LOCAL.fullmatch(uri):
            uri = self._url.encode() + local["rest"]
        numbers = [line.partition(b":")[2].strip() for line in lines[1:] if _name_of(line) == b"cseq"]
        kept = tuple(line for line in lines[1:] if _name_of(line) not in _DROPPED)
        number = numbers[0] if numbers else b"0"
        return self._written(_Request(start["method"].decode(), uri.decode("latin-1"), kept, body, number))

    def again(self, message: CameraMessage) -> tuple[bytes | None, CameraMessage]:
        """Take a response of the camera.

        Return the request to send again with a login, or None, and the response with the decoder's number.
        """
        if not self._unanswered:
            return None, message
        request = self._unanswered.popleft()
        if message.status == 401 and self._login is not None and request.attempts < ATTEMPTS_MAX:
            challenge = CameraChallenge.strongest(message.challenges)
            if challenge is not None and (not request.has_login or challenge.is_stale):
                self._challenge = challenge
                return self._written(request), message
        headers = tuple((name, request.number if name == b"CSeq" else value) for name, value in message.headers)
        return None, replace(message, headers=headers)

    def _written(self, request: _Request) -> bytes:
        self._sent += 1
        lines = [f"{request.method} {request.uri} RTSP/1.0".encode("latin-1"), b"CSeq: %d" % self._sent, *request.lines]
        if self._challenge is not None and self._login is not None:
            value = self._challenge.authorization(self._login, request.method, request.uri, request.body)
            lines.append(b"Authorization: " + value.encode())
        has_login = self._challenge is not None
        self._unanswered.append(replace(request, attempts=request.attempts + 1, has_login=has_login))
        return b"\r\n".join([*lines, b"", request.body])


def _name_of(line: bytes) -> bytes:
    return line.partition(b":")[0].strip().lower()
