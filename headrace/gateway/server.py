"""uvicorn, with deadlines for what it waits for without one: a request's head, and the rest of a body nobody wants."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request as WebSocketRequest

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB

BACKLOG = 512
FEED_PATH = "/ws/ingest"
LISTENER_BYTES_MAX = 1024  # of a message from who only listens; none is expected
_LINGER_S_MAX = 5.0  # after an answer that came before the body's end, so that the caller can read it
_DRAIN_S_MAX = 10  # of the 18 s that a process has to stop
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    b'\r\n{"type":"urn:headrace:problem:too_slow","title":"Request Timeout","status":408,'
    b'"detail":"the head of the request came too slowly","code":"too_slow"}'
)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket at this address, which does not listen yet.

    Raises:
        HeadraceError: the port is taken, or the address is none of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise HeadraceError(
            "gateway_port_taken",
            f"the gateway cannot listen: {error.strerror}",
            where=f"{host}:{port}",
            hint="choose another HEADRACE_GATEWAY_HOST or HEADRACE_GATEWAY_PORT",
            exit_code=Exit.USAGE,
        ) from None
    listening.setblocking(False)
    return listening


class Server(uvicorn.Server):
    """Serves until `should_exit` is set; signals are the process's own business."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def server_for(app: Any, settings: Settings) -> Server:
    """Return a server for the application."""
    proxies = settings.gateway_proxies.strip()
    return Server(
        uvicorn.Config(
            app,
            http=type("Protocol", (Deadlined,), {"header_s_max": settings.gateway_header_s_max}),
            ws=Listened,
            ws_max_size=INLINE_BYTES_MAX + MIB,
            ws_ping_interval=20.0,
            # Longer than a feed that waits for its frames to be durable does not read.
            ws_ping_timeout=60.0,
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(proxies),
            forwarded_allow_ips=proxies or None,
            backlog=BACKLOG,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=_DRAIN_S_MAX,
        )
    )


class Listened(WebSocketsSansIOProtocol):
    """A WebSocket that takes large messages only where there is a feed: what has come of one is in no budget."""

    def handle_connect(self, event: WebSocketRequest) -> None:
        """Begin, and narrow what is taken."""
        if event.path.partition("?")[0] != FEED_PATH:
            self.conn.max_message_size = LISTENER_BYTES_MAX
        super().handle_connect(event)


class Deadlined(H11Protocol):
    """h11 with a deadline for a request's head."""

    header_s_max = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a head."""
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._deadline is None and self.conn.their_state is h11.IDLE:
            self._expect_head()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._expect_nothing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Expect nothing more."""
        self._expect_nothing()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Leave a caller that still sends a while to read the answer."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.loop.call_later(_LINGER_S_MAX, self._end_body)

    def _end_body(self) -> None:
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            self.transport.close()

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self.header_s_max, self._too_slow)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
            self.transport.close()
