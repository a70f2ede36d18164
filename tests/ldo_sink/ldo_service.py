"""An LDO service that records what it receives."""

import email
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.processes import free_port

WAIT_S = 30.0


class ReceivedBody:
    """What one request said."""

    def __init__(self, headers: Any, body: bytes) -> None:
        self.key = headers["Idempotency-Key"]
        self.login = headers["Authorization"]
        form = email.message_from_bytes(b"Content-Type: " + headers["Content-Type"].encode() + b"\r\n\r\n" + body)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        self.metadata = json.loads(parts["metadata"].get_payload(decode=True))
        self.video = parts["video"].get_payload(decode=True) if "video" in parts else None


class Server:
    """An LDO service; `answers` are given one after the other, then 200."""

    def __init__(self, port: int = 0) -> None:
        self.received: list[ReceivedBody] = []
        self.answers: list[int] = []
        self.pause = threading.Event()
        self.pause.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/ingest/ldo"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.received.append(ReceivedBody(self.headers, body))
                outer.pause.wait(WAIT_S)
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True)
        self._thread.start()

    def ids(self) -> list[str]:
        return [post.metadata["ldo_id"] for post in self.received]

    def close(self) -> None:
        self.pause.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def nobody() -> Iterator[str]:
    yield f"http://127.0.0.1:{free_port()}"


def waiting(path: Path) -> int:
    return len([*path.rglob("*.ldo")])
