"""Why streams end, and what watches for it while one is open."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from headrace.gateway.auth.guard import authenticate
from headrace.gateway.auth.principal import Principal
from headrace.gateway.problems import Problem, as_problem
from headrace.runtime.errors import HeadraceError

CHECK_EVERY_S = 30.0  # so long may a stream outlive its key
SEND_S_MAX = 20.0  # a stream that takes nothing for so long is ended
CLOSE_S_MAX = 2.0
_REASON_BYTES_MAX = 123  # RFC 6455, section 5.5

GOING_AWAY = 1001
NOT_TEXT = 1007
REFUSED = 1008
TOO_BIG = 1009
BROKEN = 1011
RESTARTING = 1012
TRY_LATER = 1013
UNSUPPORTED = 1003


@dataclass(frozen=True, slots=True)
class CloseReason:
    """Why a stream ends: the WebSocket's close code, and a sentence."""

    code: int
    reason: str


GONE = CloseReason(GOING_AWAY, "the caller has gone")
STOPPING = CloseReason(RESTARTING, "the gateway stops; connect again")
OVERFLOW = CloseReason(TRY_LATER, "too slow: connect again with the last event id")


@dataclass(slots=True)
class Session:
    """Who is on a stream: the connection as it showed who calls, and who that is by the last look."""

    connection: HTTPConnection
    caller: Principal


async def first_of(*works: Coroutine[Any, Any, CloseReason]) -> CloseReason:
    """Do several things at once until the first of them ends, and return why; the others are cancelled.

    Raises:
        Exception: what the first to end raised.
    """
    tasks = [asyncio.create_task(one) for one in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(one for one in tasks if one.done()).result()
    finally:
        for one in tasks:
            one.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def ending_of(work: Coroutine[Any, Any, CloseReason]) -> CloseReason:
    """Return why work ended, also where it failed."""
    try:
        return await work
    except (WebSocketDisconnect, WebSocketDisconnected):
        return GONE
    except TimeoutError:
        return OVERFLOW
    except Exception as error:  # noqa: BLE001 - one stream must not take the gateway with it
        problem = as_problem(error)
        return CloseReason(TRY_LATER if problem.status_code in {429, 503} else BROKEN, problem.detail)


async def until_stopping(stopping: asyncio.Event) -> CloseReason:
    """Wait until the gateway stops."""
    await stopping.wait()
    return STOPPING


async def until_unwelcome(guest: Session) -> CloseReason:
    """Look again and again whether the caller may still be here, and how far that reaches now."""
    while True:
        await asyncio.sleep(CHECK_EVERY_S)
        try:
            guest.caller = await authenticate(guest.connection)
        except Problem as problem:
            if problem.status_code in {401, 403}:
                return CloseReason(REFUSED, problem.detail)
        except HeadraceError:
            continue  # the catalog is away: nobody can be let in or sent out by it


async def close(websocket: WebSocket, ending: CloseReason) -> None:
    """Close a WebSocket, unless it is closed; whoever does not read is not waited for."""
    reason = ending.reason.encode()[:_REASON_BYTES_MAX].decode(errors="ignore")
    with suppress(RuntimeError, OSError, WebSocketDisconnect, TimeoutError):
        async with asyncio.timeout(CLOSE_S_MAX):
            await websocket.close(ending.code, reason)
