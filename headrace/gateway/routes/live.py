"""Live connections: events as server-sent events or over a WebSocket, and a feed of frames and LDOs."""

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse
from pydantic import BeforeValidator
from starlette.status import WS_1008_POLICY_VIOLATION

from headrace.gateway.auth.guard import Device, require_source_access
from headrace.gateway.deps import LiveDep, PipelineDep, SettingsDep
from headrace.gateway.live.connection_limits import FEED
from headrace.gateway.live.event_buffer import KINDS, EventFilter
from headrace.gateway.live.feed import Feed
from headrace.gateway.live.resume_token import TOKEN_CHARACTERS_MAX, ResumeToken, parse_resume_token
from headrace.gateway.live.session import CloseReason, Session, WebSocketSession, close_websocket, subprotocol_of
from headrace.gateway.live.subscription import Subscription
from headrace.gateway.live.transport import EventStream, serve_websocket
from headrace.gateway.problems import Problem, ProblemCode, problem_responses
from headrace.gateway.queries.known_parameters import KNOWN_PARAMETERS
from headrace.gateway.server import FEED_PATH
from headrace.schemas.events import singular
from headrace.schemas.validate import check_name

router = APIRouter(tags=["live"])

StreamedKind = Annotated[Literal["cid", "frame", "clip", "ldo", "request"], BeforeValidator(singular)]

_LAST_ID = "Resume after the event with this id; any gateway accepts it."

_STREAM = {
    "description": "Events until the stream closes: `ingested`, `request`, `gap`, `overflow`, `end`.",
    "content": {EventSourceResponse.media_type: {"schema": {"type": "string"}}},
}


async def _stream_slot(live: LiveDep, principal: Device) -> AsyncIterator[None]:
    with live.stream("sse", principal):
        yield


# With EventSourceResponse as the response class, FastAPI would stream what the function yields. This function returns a
# stream of its own, which closes a client that reads nothing.
@router.get(
    "/api/v1/events",
    response_class=StreamingResponse,
    responses={200: _STREAM, **problem_responses()},
    dependencies=[KNOWN_PARAMETERS],
)
async def events(
    request: Request,
    live: LiveDep,
    principal: Device,
    kind: Annotated[list[StreamedKind] | None, Query(max_length=5)] = None,
    site: Annotated[str | None, Query()] = None,
    source_id: Annotated[str | None, Query()] = None,
    last_event_id: Annotated[str | None, Query(description=_LAST_ID)] = None,
    last_event_id_header: Annotated[str | None, Header(alias="Last-Event-ID", description=_LAST_ID)] = None,
    _slot: Annotated[None, Depends(_stream_slot)] = None,
) -> EventStream:
    """Stream announcements and state changes of requests as they happen: from now on, or from the last event id on."""
    session = Session(request, principal)
    event_filter = _event_filter(session, kind, site, source_id)
    resume = _resume_token(last_event_id_header or last_event_id)
    subscription = await Subscription.open(live.tail, resume, event_filter, principal)
    return EventStream(live.stopping, session, subscription)


@router.websocket("/ws/events")
async def events_over_websocket(websocket: WebSocket, live: LiveDep, session: WebSocketSession) -> None:
    """Stream the same events over a WebSocket."""
    parameters = websocket.query_params
    with live.stream("events", session.principal):
        event_filter = _event_filter(
            session,
            [*map(singular, parameters.getlist("kind"))] or None,
            parameters.get("site"),
            parameters.get("source_id"),
        )
        await websocket.accept(subprotocol_of(websocket))
        try:
            resume = _resume_token(parameters.get("last_event_id"))
        except Problem as problem:
            # A browser shows a page the reason of a close, and not why a connection was not accepted.
            await close_websocket(websocket, CloseReason(WS_1008_POLICY_VIOLATION, problem.detail))
            return
        opening = Subscription.open(live.tail, resume, event_filter, session.principal)
        await serve_websocket(websocket, live.stopping, session, opening)


@router.websocket(FEED_PATH)
async def ingest_over_websocket(
    websocket: WebSocket, live: LiveDep, pipeline: PipelineDep, settings: SettingsDep, session: WebSocketSession
) -> None:
    """Ingest a continuous feed of frames and LDOs."""
    with live.stream(FEED, session.principal):
        await websocket.accept(subprotocol_of(websocket))
        await Feed(websocket, session, pipeline, settings).run(live.stopping)


def _event_filter(
    session: Session, kinds: Sequence[str] | None, site: str | None, source_id: str | None
) -> EventFilter:
    """Return the filter of a stream.

    Raises:
        Problem: a kind is unknown (422), or the principal may not read the source (403).
        RejectedError: a name is invalid.
    """
    for value, field in ((site, "site"), (source_id, "source_id")):
        if value is not None:
            check_name(value, field)
    if kinds is not None and not set(kinds) <= set(KINDS):
        raise Problem(422, ProblemCode.INVALID, f"kind must be one of {', '.join(KINDS)}")
    if site is not None and source_id is not None:
        require_source_access(session.connection, session.principal, site, source_id)
    return EventFilter(None if kinds is None else frozenset(kinds), site, source_id)


def _resume_token(last_event_id: str | None) -> ResumeToken | None:
    return parse_resume_token(last_event_id[: TOKEN_CHARACTERS_MAX + 1]) if last_event_id else None
