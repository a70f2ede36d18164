"""A live connection's session: whom it authenticates, how long it lasts, and why it closes.

WebSockets pass the same guard as every request, before they are accepted. A browser cannot set headers on a WebSocket,
so it may send its key among the subprotocols: `headrace.v1, bearer.<key or token>`. The response selects `headrace.v1`
and never repeats the key.
"""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection
from starlette.status import (
    WS_1001_GOING_AWAY,
    WS_1008_POLICY_VIOLATION,
    WS_1011_INTERNAL_ERROR,
    WS_1012_SERVICE_RESTART,
    WS_1013_TRY_AGAIN_LATER,
)
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from headrace.gateway.auth.guard import authenticate, check_origin
from headrace.gateway.auth.principal import Principal
from headrace.gateway.middleware import refuse_secrets_in_url
from headrace.gateway.problems import Problem, as_problem
from headrace.runtime.errors import HeadraceError

SUBPROTOCOL = "headrace.v1"
RECHECK_EVERY_S = 30.0  # how long a stream may outlive its key
SEND_S_MAX = 20.0  # a stream whose client reads nothing for so long is closed
CLOSE_S_MAX = 2.0
_REASON_BYTES_MAX = 123  # RFC 6455, section 5.5
_BEARER = "bearer."


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a stream closes: the WebSocket close code, and a sentence."""

    code: int
    reason: str


DISCONNECTED = CloseReason(WS_1001_GOING_AWAY, "the client disconnected")
SHUTDOWN = CloseReason(WS_1012_SERVICE_RESTART, "the gateway is shutting down; reconnect")
OVERFLOW = CloseReason(WS_1013_TRY_AGAIN_LATER, "the client reads too slowly; reconnect with the last event id")


@dataclass(slots=True)
class Session:
    """A connection and its principal, as of the last check."""

    connection: HTTPConnection
    principal: Principal


async def _open_session(websocket: WebSocket) -> Session:
    """Return the session of a WebSocket that is not accepted yet.

    Raises:
        Problem: no valid key or token (401), a page of a foreign origin (403), a secret in the URL (400).
    """
    refuse_secrets_in_url(websocket.scope)
    connection = _with_bearer_header(websocket)
    check_origin(connection)
    return Session(connection, await authenticate(connection))


WebSocketSession = Annotated[Session, Depends(_open_session)]
"""The session, as a parameter of a WebSocket endpoint; a refused connection never reaches the endpoint."""


def subprotocol_of(websocket: WebSocket) -> str | None:
    """Return the subprotocol to select; None if the client does not offer ours."""
    return SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None


async def first_completed(*works: Coroutine[Any, Any, CloseReason]) -> CloseReason:
    """Run coroutines concurrently and return the result of the first to complete; the others are cancelled.

    Raises:
        Exception: what the first to complete raised.
    """
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task.done()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def close_reason_of(work: Coroutine[Any, Any, CloseReason]) -> CloseReason:
    """Return the close reason that a coroutine returns, or the one for its exception."""
    try:
        return await work
    except (WebSocketDisconnect, WebSocketDisconnected):
        return DISCONNECTED
    except TimeoutError:
        return OVERFLOW
    except Exception as error:  # noqa: BLE001 - one stream must not end the gateway
        problem = as_problem(error)
        retryable = problem.status_code in {429, 503}
        return CloseReason(WS_1013_TRY_AGAIN_LATER if retryable else WS_1011_INTERNAL_ERROR, problem.detail)


async def until_shutdown(stopping: asyncio.Event) -> CloseReason:
    """Wait until the gateway shuts down."""
    await stopping.wait()
    return SHUTDOWN


async def until_revoked(session: Session) -> CloseReason:
    """Authenticate again periodically, and return once the key or token is no longer valid."""
    while True:
        await asyncio.sleep(RECHECK_EVERY_S)
        try:
            session.principal = await authenticate(session.connection)
        except Problem as problem:
            if problem.status_code in {401, 403}:
                return CloseReason(WS_1008_POLICY_VIOLATION, problem.detail)
        except HeadraceError:
            continue  # the catalog is unavailable, so the key cannot be checked


async def close_websocket(websocket: WebSocket, reason: CloseReason) -> None:
    """Close a WebSocket if it is open; a client that does not read is not waited for."""
    text = reason.reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore")
    with suppress(RuntimeError, OSError, WebSocketDisconnect, TimeoutError):
        async with asyncio.timeout(CLOSE_S_MAX):
            await websocket.close(reason.code, text)


def _with_bearer_header(websocket: WebSocket) -> HTTPConnection:
    """Return the connection with the subprotocols' key as its Authorization header."""
    keys = [name.removeprefix(_BEARER) for name in websocket.scope["subprotocols"] if name.startswith(_BEARER)]
    headers = [*websocket.scope["headers"], *((b"authorization", f"Bearer {key}".encode("latin-1")) for key in keys)]
    return HTTPConnection({**websocket.scope, "headers": headers})
