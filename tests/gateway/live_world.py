"""Clients of the gateway's live connections, over real sockets."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from headrace.producers.publisher import Publisher
from headrace.producers.source import SequenceCounter, unix_us
from headrace.runtime.settings import Settings
from headrace.schemas.events import Cid
from tests.gateway.gateway_world import Gateway

ANSWER_S_MAX = 90.0


def websocket(gateway: Gateway, path: str, key: str | None, *, slow: bool = False, **options: Any) -> ClientConnection:
    """A WebSocket; a slow one has a small receive buffer."""
    headers = {} if key is None else {"X-API-Key": key}
    if slow:
        options["sock"] = socket.socket()
        options["sock"].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        options["sock"].connect(("127.0.0.1", gateway.http_port))
    return connect(
        f"{gateway.url.replace('http', 'ws', 1)}{path}",
        additional_headers={**headers, **options.pop("headers", {})},
        **{"compression": None, "max_size": None, "open_timeout": 30, "ping_interval": None, **options},
    )


def watch(
    gateway: Gateway, key: str, last: str | None = None, *, slow: bool = False, **wanted: Any
) -> ClientConnection:
    parameters = {**wanted, **({} if last is None else {"last_event_id": last})}
    return websocket(gateway, f"/ws/events?{urlencode(parameters, doseq=True)}", key, slow=slow)


def receive(socket_: ClientConnection) -> dict[str, Any]:
    """The next message."""
    message: dict[str, Any] = json.loads(socket_.recv(timeout=ANSWER_S_MAX))
    return message


def events(socket_: ClientConnection, count: int, name: str = "ingested") -> list[dict[str, Any]]:
    """So many events of that name; others are skipped."""
    received: list[dict[str, Any]] = []
    while len(received) < count:
        event = receive(socket_)
        if event["type"] == name:
            received.append(event)
    return received


def close_frame(socket_: ClientConnection) -> tuple[int, str]:
    """The code and reason of the close frame; messages before it are skipped."""
    try:
        while True:
            socket_.recv(timeout=ANSWER_S_MAX)
    except ConnectionClosed as error:
        return (1006, "") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)


@contextmanager
def event_stream(gateway: Gateway, key: str, **options: Any) -> Iterator[Iterator[dict[str, str]]]:
    """Server-sent events as dictionaries of their fields; the first has been received when the block starts."""
    headers = {"X-API-Key": key, **options.pop("headers", {})}
    with (
        httpx.Client(base_url=gateway.url, headers=headers, timeout=ANSWER_S_MAX) as client,
        client.stream("GET", "/api/v1/events", **options) as answer,
    ):
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        received = _fields(answer.iter_lines())
        assert "id" in next(received)
        yield received


def next_named(received: Iterator[dict[str, str]], name: str) -> dict[str, str]:
    """The next server-sent event of that name."""
    return next(event for event in received if event.get("event") == name)


def publish_scans(settings: Settings, source_id: str, codes: list[str], site: str = "live") -> None:
    """Publish scans of one source, in this order."""
    numbers = SequenceCounter(unix_us)
    with Publisher.from_settings(settings) as publisher:
        for code in codes:
            event = Cid(source_id=source_id, site=site, captured_at_us=unix_us(), sequence=numbers.next(), code=code)
            publisher.publish(event)


def _fields(lines: Iterator[str]) -> Iterator[dict[str, str]]:
    event: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            event[name] = value
        elif event:
            yield event
            event = {}
