"""An ordinary web server on loopback, in threads, for clients that are not asynchronous."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Answers each path with what `body_of` says, None being 404, and counts its answers; it has no robots.txt."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, body_of: Callable[[str], bytes | None], handler: "type[Handler] | None" = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or Handler)
        self.body_of = body_of
        self.answered: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()  # how often a path is still to be answered with 503
        self.lock = threading.Lock()

    def handle_error(self, *_: object) -> None:
        """A client that is killed resets its connections: nothing to say."""

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        is_file = self.path != "/robots.txt"
        body = self.server.body_of(self.path) if is_file else None
        is_busy = self.count(is_file)
        self.send_response(503 if is_busy else 404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        try:
            self.wfile.write(body or b"")
        except ConnectionError:
            self.close_connection = True

    def count(self, is_file: bool = True) -> bool:
        """Count an answer; say whether it is to be 503."""
        with self.server.lock:
            self.server.answered[self.path] += is_file
            is_busy = self.server.busy[self.path] > 0
            self.server.busy[self.path] -= is_busy
        return is_busy

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def file_server(body_of: Callable[[str], bytes | None], handler: type[Handler] | None = None) -> Iterator[FileServer]:
    server = FileServer(body_of, handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
