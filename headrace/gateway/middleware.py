"""ASGI middleware of every request: request id, limits of the body, access log and metrics.

It is pure ASGI, so that request and response bodies stream through it.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import structlog
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Match

from headrace.gateway import problems
from headrace.gateway.problems import Problem, ProblemCode
from headrace.runtime.logs import Action, get_log
from headrace.runtime.metrics import (
    gateway_chunk_bytes_per_second,
    gateway_refused_total,
    http_request_duration_seconds,
    http_request_size_bytes,
    http_requests_in_progress,
    http_requests_total,
)
from headrace.runtime.settings import Settings
from headrace.schemas.limits import CLIP_BYTES_MAX, KIB, MIB

Scope: TypeAlias = MutableMapping[str, Any]
AsgiMessage: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
Send: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

BODY_BYTES_MAX = 256 * KIB  # of routes that accept JSON, which are not counted as memory
UPLOAD_BYTES_MAX = CLIP_BYTES_MAX + 16 * MIB  # the largest file and its form
STREAMED = ("/ingest", "/cid", "/api/v1/ingest/upload", "/api/v1/uploads")
SMALL = frozenset({"/oauth/token", "/api/v1/ingest/rtsp"})  # their bodies are read before authentication
SMALL_BYTES_MAX = 64 * KIB
PARAMETERS_MAX = 100
_QUIET = frozenset({"/health", "/ready", "/metrics"})  # probes are not logged

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECRET_PARAMETERS = frozenset({"api_key", "apikey", "api-key", "key", "token", "access_token", "password", "secret"})
RATE_LIMIT_HEADER = b"ratelimit"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_RESPONSE_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)


class Middleware:
    """The outermost middleware of the gateway."""

    def __init__(self, app: AsgiApp, settings: Settings) -> None:
        self._app = app
        self._hosts = frozenset(host.strip().lower() for host in settings.gateway_hosts.split(",") if host.strip())
        self._pace = BodyPace(
            settings.gateway_body_stall_s_max,
            settings.gateway_body_bytes_per_s_min,
            settings.gateway_body_s_max,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an HTTP request; a WebSocket gets a request id, and its host is checked."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            if scope["type"] == "websocket":
                await self._handle_websocket(scope, headers, receive, send)
                return
            response = _Response(scope, send, request_id)
            body = _Body(receive, _bytes_max(scope["path"]), self._pace)
            with http_requests_in_progress.labels(_method(scope)).track_inprogress():
                await self._handle(scope, headers, body, response)
            response.report(body.size_bytes)
            if (on_response := scope["state"].get("on_response")) is not None:
                on_response(response.status)

    async def _handle(self, scope: Scope, headers: dict[bytes, bytes], body: "_Body", response: "_Response") -> None:
        try:
            self._check_host(headers)
            _check(scope, headers, body.bytes_max)
            if _is_browser_at_root(scope, headers):
                await RedirectResponse("/docs", 302)(scope, body.receive, response.send)
                return
            await self._app(scope, body.receive, response.send)
        except Exception as error:  # noqa: BLE001 - one request must not stop the gateway
            problem = problems.as_problem(error)
            if not response.started:
                await _send_problem(scope, problem, response)

    async def _handle_websocket(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        try:
            self._check_host(headers)
        except Problem as problem:
            await problems.problem_response(problems.request_id_of(scope), problem)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        """Require an allowed Host: a page of another name that resolves to this address must not read answers.

        Raises:
            Problem: the host is not in HEADRACE_GATEWAY_HOSTS (421).
        """
        host = urlsplit(f"//{headers.get(b'host', b'').decode('latin-1')}").hostname
        if self._hosts and host not in self._hosts:
            raise Problem(
                421, ProblemCode.FORBIDDEN, "the gateway has another host name", hint="add it to HEADRACE_GATEWAY_HOSTS"
            )


async def _send_problem(scope: Scope, problem: Problem, response: "_Response") -> None:
    async def receive() -> AsgiMessage:
        return {"type": "http.disconnect"}

    answer = problems.problem_response(problems.request_id_of(scope), problem)
    await answer(scope, receive, response.send)


def _check(scope: Scope, headers: dict[bytes, bytes], bytes_max: int) -> None:
    """Check a request's headers.

    Raises:
        Problem: two lengths (request smuggling), an encoded body (decompression bomb), a length beyond the limit, or a
            secret in the URL, which proxies and browsers store.
    """
    if b"transfer-encoding" in headers and b"content-length" in headers:
        raise Problem(
            400,
            ProblemCode.BAD_REQUEST,
            "send either Content-Length or Transfer-Encoding",
            headers={"Connection": "close"},
        )
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Problem(415, ProblemCode.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not supported")
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > bytes_max:
        raise Problem(413, ProblemCode.TOO_LARGE, f"the body has {int(length)} bytes; the limit is {bytes_max}")
    refuse_secrets_in_url(scope)


def refuse_secrets_in_url(scope: Scope) -> None:
    """Require that the URL's query holds no secret.

    Raises:
        Problem: it holds one, or too many parameters (400).
    """
    query = scope["query_string"].decode("latin-1")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=PARAMETERS_MAX)
    except ValueError:
        raise Problem(
            400, ProblemCode.BAD_REQUEST, f"the URL has more than {PARAMETERS_MAX} query parameters"
        ) from None
    names = (name.lower() for name, _ in pairs)
    if not _SECRET_PARAMETERS.isdisjoint(names):
        raise Problem(
            400,
            ProblemCode.KEY_IN_URL,
            "the URL holds an API key or token",
            hint="send it as `Authorization: Bearer …` or `X-API-Key: …`, and replace it: logs hold URLs",
        )


@dataclass(frozen=True, slots=True)
class BodyPace:
    """The least speed of a body, which each interval of `stall_s_max` seconds must have, and its longest duration."""

    stall_s_max: float
    bytes_per_s_min: int
    total_s_max: float

    @property
    def bytes_min(self) -> int:
        """The bytes that an interval must bring."""
        return max(1, int(self.bytes_per_s_min * self.stall_s_max))


class MethodMiddleware:
    """Answers HEAD like GET without its body, and OPTIONS with the methods of the path (RFC 9110, section 9.3)."""

    def __init__(self, app: AsgiApp, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; one whose method has a route of its own passes through."""
        method = scope.get("method")
        allowed = allowed_methods(self._routes, scope) if method in {"HEAD", "OPTIONS"} else set()
        if not allowed or method in _methods_of_routes(self._routes, scope):
            await self._app(scope, receive, send)
        elif method == "OPTIONS":
            answer = Response(status_code=204, headers={"Allow": ", ".join(sorted(allowed))})
            await answer(scope, receive, send)
        elif "GET" in allowed:
            await self._answer_head(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _answer_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_head(message: AsgiMessage) -> None:
            await send(message)
            await send({"type": "http.response.body", "body": b""})
            raise _HeadSentError  # a stream of events would never end

        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_head)
        except* _HeadSentError:
            pass
        finally:
            scope["route"] = as_get.get("route")


class _HeadSentError(Exception):
    """The head of a response was sent."""


def allowed_methods(routes: Iterable[BaseRoute], scope: Scope) -> set[str]:
    """Return the methods of a path; empty where no route has it. Routes outside the schema only refuse or alias."""
    documented = [route for route in routes if getattr(route, "include_in_schema", False)]
    methods = _methods_of_routes(documented, scope) or _methods_of_routes(routes, scope)
    return methods | ({"OPTIONS", "HEAD"} if "GET" in methods else {"OPTIONS"}) if methods else set()


def _methods_of_routes(routes: Iterable[BaseRoute], scope: Scope) -> set[str]:
    methods: set[str] = set()
    for route in routes:
        if scope["type"] == "http" and route.matches(scope)[0] is not Match.NONE:
            methods |= getattr(route, "methods", None) or set()
    return methods


class _Body:
    """A request's body, with limits of its size, speed and duration."""

    def __init__(self, receive: Receive, bytes_max: int, pace: BodyPace) -> None:
        self._receive = receive
        self._pace = pace
        self._total_s = 0.0
        self._waited_s = 0.0
        self._window_bytes = 0
        self._ended = False
        self.bytes_max = bytes_max
        self.size_bytes = 0

    async def receive(self) -> AsgiMessage:
        """Return the next chunk.

        Raises:
            Problem: the body is too large (413) or too slow (408). Only the time spent waiting for the client counts,
                not that of a slow store.
        """
        if self._ended:
            return await self._receive()
        began = time.monotonic()
        try:
            left_s = min(self._pace.stall_s_max - self._waited_s, self._pace.total_s_max - self._total_s)
            async with asyncio.timeout(left_s):
                message = await self._receive()
        except TimeoutError:
            raise Problem(
                408,
                ProblemCode.TOO_SLOW,
                f"the client sent less than {self._pace.bytes_min} bytes in {self._pace.stall_s_max:g} s, "
                f"or took longer than {self._pace.total_s_max:g} s",
                headers={"Connection": "close"},
            ) from None
        took_s = time.monotonic() - began
        self._count(len(message.get("body", b"")), took_s)
        self._ended = not message.get("more_body", False)
        return message

    def _count(self, size_bytes: int, took_s: float) -> None:
        self.size_bytes += size_bytes
        if self.size_bytes > self.bytes_max:
            raise Problem(413, ProblemCode.TOO_LARGE, f"the body is larger than {self.bytes_max} bytes")
        self._window_bytes += size_bytes
        self._waited_s += took_s
        self._total_s += took_s
        if self._window_bytes >= self._pace.bytes_min:
            gateway_chunk_bytes_per_second.observe(self._window_bytes / max(self._waited_s, 1e-6))
            self._window_bytes, self._waited_s = 0, 0.0
        elif self._waited_s >= self._pace.stall_s_max:
            self._waited_s = self._pace.stall_s_max - 0.001  # the next wait times out


class _Response:
    """A response being sent."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._began_s = time.monotonic()
        self._headers = [*_RESPONSE_HEADERS, (b"x-request-id", request_id.encode())]
        self.started = False
        self.status = 499  # until a response starts: the client closed the connection

    async def send(self, message: AsgiMessage) -> None:
        """Send a message, with the headers of every response."""
        if message["type"] == "http.response.start":
            self.started = True
            self.status = message["status"]
            headers = [*message.get("headers", ()), *self._headers]
            if not any(name == RATE_LIMIT_HEADER for name, _ in headers):
                headers += self._scope["state"].get("rate_limit", ())
            message["headers"] = headers
        await self._send(message)

    def report(self, request_bytes: int) -> None:
        """Count and log the request."""
        route = self._scope.get("route")
        handler = getattr(route, "path", "other")
        method = _method(self._scope)
        took_s = time.monotonic() - self._began_s
        http_requests_total.labels(method, handler, str(self.status)).inc()
        http_request_duration_seconds.labels(method, handler).observe(took_s)
        http_request_size_bytes.labels(handler).observe(request_bytes)
        if self.status >= 400:
            gateway_refused_total.labels(str(self.status)).inc()
        if handler not in _QUIET:
            get_log().info(
                Action.ANSWERED,
                method=method,
                handler=handler,
                status=self.status,
                ms=round(took_s * 1000, 1),
                request_bytes=request_bytes,
            )


def _is_browser_at_root(scope: Scope, headers: dict[bytes, bytes]) -> bool:
    # Clients of a Schema Registry ask for `/` too, and never for HTML.
    return scope["path"] == "/" and scope["method"] == "GET" and b"text/html" in headers.get(b"accept", b"")


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


def _bytes_max(path: str) -> int:
    if path in SMALL:
        return SMALL_BYTES_MAX
    return UPLOAD_BYTES_MAX if _is_streamed(path, STREAMED) else BODY_BYTES_MAX


def _is_streamed(path: str, prefixes: Iterable[str]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}/") for prefix in prefixes)


def _method(scope: Scope) -> str:
    # Other methods must not create new labels.
    return scope["method"] if scope["method"] in _METHODS else "other"
