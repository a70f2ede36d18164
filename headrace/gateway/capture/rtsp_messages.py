"""Parses what a camera sends, and writes it anew for the decoder (RFC 2326). No I/O.

FFmpeg ends a line at a bare LF, takes the last of several lengths, accepts folded and misspelt headers, and reads a `$`
at the start of any line as data. A camera could thus show the proxy one message and FFmpeg another. So nothing is
passed on as it came: a message is parsed strictly, and the decoder gets the headers that it needs, in one spelling.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from headrace.gateway.capture.camera_faults import CameraFault, StreamLostError

DESCRIPTION_BYTES_MAX = 256 * 1024
PACKET_BYTES_MIN = 8  # of an RTCP header; FFmpeg reads what is in a shorter packet as a message

_RESPONSE = re.compile(rb"RTSP/1\.[0-9] (?P<status>[1-5][0-9]{2})(?: .*)?")
_REQUEST = re.compile(rb"(?P<method>[A-Z_]{3,20}) \S+ RTSP/1\.[0-9]")
_HEADER = re.compile(rb"(?P<name>[A-Za-z][A-Za-z0-9-]*):[ \t]*(?P<value>[\x20-\x7e\t\x80-\xff]*)")
_LENGTH = re.compile(rb"[0-9]{1,9}")
_DESCRIPTION_LINE = re.compile(rb"(?P<letter>[a-z])=(?P<value>[\x20-\x7e\t\x80-\xff]*)")
_CONTROL = re.compile(rb"control:[ \t]*(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):", re.IGNORECASE)

_PASSED_ON = {
    name.lower(): name
    for name in (
        b"CSeq",
        b"Session",
        b"Transport",
        b"Range",
        b"RTP-Info",
        b"Public",
        b"Content-Base",
        b"Content-Type",
    )
}
"""The headers that the decoder needs: not `Location`, challenges of a login, or those of other makers' protocols."""


@dataclass(frozen=True, slots=True)
class CameraMessage:
    """A response, or a request of the camera, without its body; `status` is None for a request."""

    start_line: bytes
    status: int | None
    headers: tuple[tuple[bytes, bytes], ...]
    body_bytes: int
    challenges: tuple[str, ...] = ()
    """The values of WWW-Authenticate, which the proxy answers."""

    def serialize(self, body: bytes) -> bytes:
        """Return the message for the decoder. Of a body only a stream description is kept, and its length is ours.

        Raises:
            StreamLostError: the description is invalid, or refers to something other than an RTSP stream.
        """
        kept = _checked_description(body) if body.startswith(b"v=") else b""
        lines = [self.start_line, *(b"%s: %s" % header for header in self.headers)]
        if kept:
            lines.append(b"Content-Length: %d" % len(kept))
        return b"\r\n".join([*lines, b"", kept])


def parse_message(lines: Sequence[bytes]) -> CameraMessage:
    """Parse the lines before a message's body, without their line ends.

    Raises:
        StreamLostError: they are not RTSP, redirect, or announce too large a body.
    """
    headers = [_parsed_header(line) for line in lines[1:]]
    body_bytes = parsed_length([value for name, value in headers if name == b"content-length"])
    start_line, status = _parsed_start_line(lines[0])
    passed_on = tuple((_PASSED_ON[name], value) for name, value in headers if name in _PASSED_ON)
    challenges = tuple(value.decode("utf-8", "replace") for name, value in headers if name == b"www-authenticate")
    return CameraMessage(start_line, status, passed_on, body_bytes, challenges)


def parsed_length(values: Sequence[bytes]) -> int:
    """Return the length of a body by the values of Content-Length; raises as `parse_message`."""
    lengths = [value.strip(b" \t") for value in values]
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise StreamLostError(CameraFault.NOT_RTSP)
    body_bytes = int(lengths[0]) if lengths else 0
    if body_bytes > DESCRIPTION_BYTES_MAX:
        raise StreamLostError(CameraFault.DESCRIPTION_REFUSED)
    return body_bytes


def _parsed_start_line(line: bytes) -> tuple[bytes, int | None]:
    if response := _RESPONSE.fullmatch(line):
        status = int(response["status"])
        if 300 <= status < 400:
            raise StreamLostError(CameraFault.REDIRECTED)
        return b"RTSP/1.0 %d -" % status, status
    if request := _REQUEST.fullmatch(line):
        if request["method"] == b"REDIRECT":
            raise StreamLostError(CameraFault.REDIRECTED)
        return b"%s * RTSP/1.0" % request["method"], None
    raise StreamLostError(CameraFault.NOT_RTSP)


def _parsed_header(line: bytes) -> tuple[bytes, bytes]:
    header = _HEADER.fullmatch(line)
    if header is None:
        raise StreamLostError(CameraFault.NOT_RTSP)
    return header["name"].lower(), header["value"].strip(b" \t")


def _checked_description(body: bytes) -> bytes:
    """Return a stream description (SDP, RFC 4566) with strict line ends."""
    lines = []
    for line in body.rstrip(b"\x00").replace(b"\r\n", b"\n").split(b"\n"):
        if not line.strip():
            continue
        parsed = _DESCRIPTION_LINE.fullmatch(line)
        control = _CONTROL.match(parsed["value"]) if parsed and parsed["letter"] == b"a" else None
        if parsed is None or (control and control["scheme"].lower() not in {b"rtsp", b"rtsps"}):
            raise StreamLostError(CameraFault.DESCRIPTION_REFUSED)
        lines.append(line)
    return b"".join(b"%s\r\n" % line for line in lines)
