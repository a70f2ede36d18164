"""Requests as no well-behaved client sends them: written byte by byte on a socket."""

import contextlib
import socket
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

BOUNDARY = "b0undary"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


def part(body: bytes, *, name: str = "file", filename: str | None = "a.jpg", extra: bytes = b"") -> bytes:
    said = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
    head = f"--{BOUNDARY}\r\nContent-Disposition: {said}\r\n".encode("utf-8", "surrogatepass")
    return head + extra + b"\r\n" + body + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def head(path: str, key: str, *lines: str, method: str = "POST") -> bytes:
    said = [f"{method} {path} HTTP/1.1", "Host: gateway", f"X-API-Key: {key}", f"Content-Type: {CONTENT_TYPE}", *lines]
    return "\r\n".join([*said, "", ""]).encode()


def send(
    url: str, pieces: Iterable[bytes], *, pause_s: float = 0.0, close: bool = False, wait_s: float = 60.0
) -> bytes:
    """Send pieces with pauses between them, and return what came back until the gateway closed or answered whole."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=wait_s) as connection:
        with contextlib.suppress(OSError):  # an answer may come before everything is sent
            for piece in pieces:
                connection.sendall(piece)
                if pause_s:
                    time.sleep(pause_s)
        if close:
            return b""
        return _answer(connection)


def _answer(connection: socket.socket) -> bytes:
    seen = b""
    with contextlib.suppress(OSError):
        while True:
            some = connection.recv(65536)
            if not some:
                break
            seen += some
            top, _, body = seen.partition(b"\r\n\r\n")
            length = [line for line in top.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if length and not top.startswith(b"HTTP/1.1 1") and len(body) >= int(length[0].split(b":")[1]):
                break
            if top.startswith(b"HTTP/1.1 1"):
                seen = body
    return seen


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
