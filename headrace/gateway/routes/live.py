"""Live connections: events as server-sent events and over a WebSocket, and a feed of frames and LDOs."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from starlette.requests import HTTPConnection

from headrace.gateway.auth.guard import Device, require_source_access
from headrace.gateway.auth.principal import Principal
from headrace.gateway.deps import LiveDep, PipelineDep, SettingsDep
from headrace.gateway.live.close_codes import REFUSED, CloseReason, Session, close
from headrace.gateway.live.connection_limits import FEED
from headrace.gateway.live.feed import Feed
from headrace.gateway.live.resume_token import ID_CHARACTERS_MAX, ResumeToken, parse_position
from headrace.gateway.live.stream_event import KINDS, EventFilter
from headrace.gateway.live.subscription import Subscription
from headrace.gateway.live.transport import EventStream, carry_over
from headrace.gateway.live.ws_auth import WebSocketGuest, subprotocol_of
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.server import FEED_PATH
from headrace.schemas.validate import check_name

router = APIRouter(tags=["live"])

_LAST_ID = "Go on after the event of this id, on whichever gateway that was."

_STREAM = {
    "description": "Events until the stream ends: `ingested`, `request`, `gap`, `overflow`, `end`.",
    "content": {EventSourceResponse.media_type: {"schema": {"type": "string"}}},
}


async def _stream_slot(live: LiveDep, principal: Device) -> AsyncIterator[None]:
    with live.stream("sse", principal):
        yield


# Where a call names EventSourceResponse, FastAPI makes a stream of what it yields. This one returns its own stream,
# to be able to end whoever takes nothing.
@router.get("/api/v1/events", response_class=StreamingResponse, responses={200: _STREAM, **problem_responses()})
async def events(
    request: Request,
    live: LiveDep,
    principal: Device,
    kind: Annotated[list[Literal["cid", "frame", "clip", "ldo", "request"]] | None, Query(max_length=5)] = None,
    site: Annotated[str | None, Query()] = None,
    source_id: Annotated[str | None, Query()] = None,
    last_event_id: Annotated[str | None, Query(description=_LAST_ID)] = None,
    last_event_id_header: Annotated[str | None, Header(alias="Last-Event-ID", description=_LAST_ID)] = None,
    _slot: Annotated[None, Depends(_stream_slot)] = None,
) -> EventStream:
    """Stream what is ingested, and how requests stand, as it happens: from now on, or from where a stream ended."""
    wanted = _wanted(request, principal, kind, site, source_id)
    resume = _resume(last_event_id_header or last_event_id)
    subscription = await Subscription.begin(live.tail, resume, wanted, principal)
    return EventStream(live.stopping, Session(request, principal), subscription)


@router.websocket("/ws/events")
async def events_over_websocket(websocket: WebSocket, live: LiveDep, guest: WebSocketGuest) -> None:
    """Carry the same over a WebSocket."""
    asked = websocket.query_params
    with live.stream("events", guest.caller):
        wanted = _wanted(
            guest.connection, guest.caller, asked.getlist("kind") or None, asked.get("site"), asked.get("source_id")
        )
        await websocket.accept(subprotocol_of(websocket))
        try:
            last = _resume(asked.get("last_event_id"))
        except Problem as problem:
            # A page is told the reason of a close, and never that of a connection that was not accepted.
            await close(websocket, CloseReason(REFUSED, problem.detail))
            return
        beginning = Subscription.begin(live.tail, last, wanted, guest.caller)
        await carry_over(websocket, live.stopping, guest, beginning)


@router.websocket(FEED_PATH)
async def ingest_over_websocket(
    websocket: WebSocket, live: LiveDep, pipeline: PipelineDep, settings: SettingsDep, guest: WebSocketGuest
) -> None:
    """Take a continuous feed of frames and LDOs."""
    with live.stream(FEED, guest.caller):
        await websocket.accept(subprotocol_of(websocket))
        await Feed(websocket, guest, pipeline, settings).run(live.stopping)


def _wanted(
    connection: HTTPConnection,
    principal: Principal,
    kinds: Sequence[str] | None,
    site: str | None,
    source_id: str | None,
) -> EventFilter:
    """Return what a stream is narrowed to.

    Raises:
        Problem: that is no kind (422), or a source out of reach (403). Rejected: that may not be a name.
    """
    for value, field in ((site, "site"), (source_id, "source_id")):
        if value is not None:
            check_name(value, field)
    if kinds is not None and not set(kinds) <= set(KINDS):
        raise Problem(422, ProblemCode.INVALID, f"kind is one of {', '.join(KINDS)}")
    if site is not None and source_id is not None:
        require_source_access(connection, principal, site, source_id)
    return EventFilter(None if kinds is None else frozenset(kinds), site, source_id)


def _resume(last_event_id: str | None) -> ResumeToken | None:
    return parse_position(last_event_id[: ID_CHARACTERS_MAX + 1]) if last_event_id else None
