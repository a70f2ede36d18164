"""The door for WebSockets: the same guard as for every call, before the connection is accepted.

A browser cannot set headers on a WebSocket, so it may show its key in the list of subprotocols:
`headrace.v1, bearer.<key or token>`. The answer chooses `headrace.v1`; the other is never said back.
"""

from typing import Annotated

from fastapi import Depends, WebSocket
from starlette.requests import HTTPConnection

from headrace.gateway.auth.guard import authenticate, check_origin
from headrace.gateway.live.close_codes import Session
from headrace.gateway.middleware import refuse_secrets_in_url

SUBPROTOCOL = "headrace.v1"
_BEARER = "bearer."


async def _guest(websocket: WebSocket) -> Session:
    """Return who wants in.

    Raises:
        Problem: nobody that is known (401), from a page that may not (403), a secret in the address (400).
    """
    refuse_secrets_in_url(websocket.scope)
    connection = _showing(websocket)
    check_origin(connection)
    return Session(connection, await authenticate(connection))


WebSocketGuest = Annotated[Session, Depends(_guest)]
"""Who wants in, as a parameter of a WebSocket's function; refused before that is called."""


def subprotocol_of(websocket: WebSocket) -> str | None:
    """Return the subprotocol to choose; None where ours is not offered."""
    return SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None


def _showing(websocket: WebSocket) -> HTTPConnection:
    """Return the connection as if a key among the subprotocols stood in the header that is made for it."""
    shown = [one.removeprefix(_BEARER) for one in websocket.scope["subprotocols"] if one.startswith(_BEARER)]
    headers = [*websocket.scope["headers"], *((b"authorization", f"Bearer {one}".encode("latin-1")) for one in shown)]
    return HTTPConnection({**websocket.scope, "headers": headers})
