"""`headrace camera` against a gateway that answers what it is told."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from headrace.runtime.errors import Exit
from tests.cli.command_runs import CANARY, Command
from tests.processes import free_port

ROW = {
    "site": "plant",
    "camera_id": "cam-1",
    "url": "rtsp://10.0.0.7:554/s",
    "fps": 5.0,
    "state": "recording",
    "last_error": None,
    "frames": 12,
    "since": "2026-12-01T00:00:00Z",
    "status_url": "/api/v1/ingest/status/x",
}


class Told(BaseHTTPRequestHandler):
    """Notes each request, and answers it as a gateway."""

    requests: list[tuple[str, str, str | None, Any]]

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", 0))
        body = json.loads(self.rfile.read(length)) if length else None
        type(self).requests.append((self.command, self.path, self.headers.get("X-API-Key"), body))
        status, content = {
            "POST": (202, {"request_id": "1", "status": "requested"}),
            "GET": (200, {"captures": [ROW]}),
            "DELETE": (404, {"code": "not_found", "detail": "the camera has no standing capture", "hint": "look"}),
        }[self.command]
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    """The options of a gateway that is not the stack's."""
    Told.requests = []
    (tmp_path / "key").write_text(f"{CANARY}\n")
    with HTTPServer(("127.0.0.1", 0), Told) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "--gateway", f"http://127.0.0.1:{server.server_port}/", "--key-file", str(tmp_path / "key")
        server.shutdown()


def test_add_asks_for_a_standing_capture(command: Command, gateway: tuple[str, ...]) -> None:
    ended = command("camera", "add", "rtsp://user:pw@cam/s", "--name", "cam-1", "--fps", "5", *gateway)
    assert ended.code == Exit.OK
    assert Told.requests == [
        (
            "POST",
            "/api/v1/ingest/rtsp",
            CANARY,
            {
                "rtsp_url": "rtsp://user:pw@cam/s",
                "camera_id": "cam-1",
                "capture_mode": "continuous",
                "standing": True,
                "fps": 5.0,
            },
        )
    ]


def test_list_shows_the_state_of_each(command: Command, gateway: tuple[str, ...]) -> None:
    shown = command("camera", "list", *gateway).out.decode().splitlines()
    assert shown[1].split()[:5] == ["cam-1", "plant", "recording", "5.0", "12"]
    assert command("camera", "list", "--json", *gateway).json == {"captures": [ROW]}


def test_a_refusal_of_the_gateway_is_said_as_it_is(command: Command, gateway: tuple[str, ...]) -> None:
    ended = command("camera", "remove", "cam/1", "--site", "plant", *gateway)
    assert Told.requests[0][:2] == ("DELETE", "/api/v1/captures/cam%2F1?site=plant")
    assert (ended.code, ended.err) == (
        Exit.FAILED,
        "not_found: the camera has no standing capture\nhint: look\n",
    )


def test_without_a_stack_or_a_key_it_says_what_to_do(command: Command) -> None:
    assert command("camera", "list").code == Exit.UNREACHABLE
    ended = command("camera", "list", "--gateway", "http://127.0.0.1:1")
    assert (ended.code, "--key-file" in ended.err) == (Exit.USAGE, True)


def test_a_gateway_that_is_away_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(CANARY)
    address = f"http://127.0.0.1:{free_port()}"
    ended = command("camera", "list", "--gateway", address, "--key-file", str(tmp_path / "key"))
    assert (ended.code, address in ended.err) == (Exit.UNREACHABLE, True)


def test_a_url_that_is_none_fails_at_its_first_stage(command: Command) -> None:
    ended = command("camera", "test", "http://cam/s", "--json")
    assert ended.code == Exit.FAILED
    [stage] = ended.json["stages"]
    assert (stage["stage"], stage["ok"]) == ("name", False)
