"""The uvicorn server, with timeouts for a request's head and for the rest of a body after an early response."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h11
import uvicorn
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request as WebSocketRequest

from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import ENV_FILE, Settings, load_settings
from headrace.schemas.limits import INLINE_BYTES_MAX, MIB

BACKLOG = 512
FEED_PATH = "/ws/ingest"
LISTENER_BYTES_MAX = 1024  # of messages on other WebSockets, which expect none
READ_BYTES_MIN = 4096  # of a response, within the stall interval
_LINGER_S_MAX = 5.0  # after an early response, so that the client can read it
_DRAIN_S_MAX = 10  # of the 18 s within which a process must stop
_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    b'\r\n{"type":"urn:headrace:problem:too_slow","title":"Request Timeout","status":408,'
    b'"detail":"the client sent the head of the request too slowly","code":"too_slow"}'
)


class LegacyEnv(BaseSettings):
    """The variables of the gateway's predecessor in the environment or `.env`: `HOST`, `PORT` and `REDIS_URL`.

    Only the gateway reads them, because other programs use these names too.
    """

    model_config = SettingsConfigDict(env_file=ENV_FILE, extra="ignore")

    host: str | None = None
    port: int | None = Field(None, ge=0, le=65535)
    redis_url: SecretStr | None = None


def legacy_overrides() -> dict[str, Any]:
    """Return settings from the predecessor's variables, unless the settings have a value of their own.

    Raises:
        HeadraceError: PORT is not a port, or a setting is invalid.
    """
    try:
        legacy = LegacyEnv()
    except ValidationError:
        raise HeadraceError(
            "setting_invalid",
            "PORT must be a number from 0 to 65535",
            hint="Correct it, or set HEADRACE_GATEWAY_PORT and unset it.",
            exit_code=Exit.USAGE,
        ) from None
    values = {"gateway_host": legacy.host, "gateway_port": legacy.port, "redis_url": legacy.redis_url}
    known = load_settings().model_fields_set
    return {name: value for name, value in values.items() if value is not None and name not in known}


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to this address; it does not listen yet.

    Raises:
        HeadraceError: the address is in use or not available.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise HeadraceError(
            "gateway_port_taken",
            f"cannot bind the address: {error.strerror}",
            where=f"{host}:{port}",
            hint="change HEADRACE_GATEWAY_HOST or HEADRACE_GATEWAY_PORT",
            exit_code=Exit.USAGE,
        ) from None
    listening.setblocking(False)
    return listening


class GatewayServer(uvicorn.Server):
    """Serves until `should_exit` is set; the process handles the signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield


def server_for(app: Any, settings: Settings) -> GatewayServer:
    """Return a server for the application."""
    proxies = settings.gateway_proxies.strip()
    timeouts = {"header_s_max": settings.gateway_header_s_max, "stall_s_max": settings.gateway_body_stall_s_max}
    return GatewayServer(
        uvicorn.Config(
            app,
            http=type("Protocol", (TimeoutProtocol,), timeouts),
            ws=WebSocketProtocol,
            ws_max_size=INLINE_BYTES_MAX + MIB,
            ws_ping_interval=20.0,
            # A feed does not read while it waits for its frames to be durable.
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


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Allows large messages only on the feed: a partial message is not counted as upload memory."""

    def handle_connect(self, event: WebSocketRequest) -> None:
        """Limit the size of messages by path."""
        if event.path.partition("?")[0] != FEED_PATH:
            self.conn.max_message_size = LISTENER_BYTES_MAX
        super().handle_connect(event)


class TimeoutProtocol(H11Protocol):
    """h11 with a timeout for a request's head, and one for a client that does not read its response."""

    header_s_max = 10.0
    stall_s_max = 20.0
    _unread_bytes = 0
    _reading: asyncio.TimerHandle | None = None
    _timeout: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout."""
        super().connection_made(transport)
        self._start_timeout()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        if self._timeout is None and self.conn.their_state is h11.IDLE:
            self._start_timeout()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timeout()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop_timeout()
        self._stop_reading()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Give a client that is still sending time to read the response."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.loop.call_later(_LINGER_S_MAX, self._end_body)

    def _end_body(self) -> None:
        if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE:
            self.transport.close()

    def pause_writing(self) -> None:
        """Expect the client to read, as long as bytes wait for it."""
        super().pause_writing()
        self._expect_reading()

    def resume_writing(self) -> None:
        """Expect nothing more."""
        self._stop_reading()
        super().resume_writing()

    def _expect_reading(self) -> None:
        self._unread_bytes = self.transport.get_write_buffer_size()
        self._reading = self.loop.call_later(self.stall_s_max, self._check_reading)

    def _check_reading(self) -> None:
        if self._unread_bytes - self.transport.get_write_buffer_size() < READ_BYTES_MIN:
            self.transport.abort()  # to close it would wait for the client
        else:
            self._expect_reading()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def _start_timeout(self) -> None:
        self._timeout = self.loop.call_later(self.header_s_max, self._too_slow)

    def _stop_timeout(self) -> None:
        if self._timeout is not None:
            self._timeout.cancel()
            self._timeout = None

    def _too_slow(self) -> None:
        self._timeout = None
        if not self.transport.is_closing():
            self.transport.write(_TOO_SLOW)
            self.transport.close()
