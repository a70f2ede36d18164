"""Sends a subscription's events to a client: as server-sent events, or as WebSocket messages."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import orjson
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.status import WS_1008_POLICY_VIOLATION
from starlette.types import Send
from starlette.websockets import WebSocket

from headrace.gateway.live.session import (
    DISCONNECTED,
    OVERFLOW,
    SEND_S_MAX,
    CloseReason,
    Session,
    close_reason_of,
    close_websocket,
    first_completed,
    until_revoked,
    until_shutdown,
)
from headrace.gateway.live.subscription import ClientEvent, SlowConsumerError, Subscription

KEEP_ALIVE_S = 15.0
RETRY_MS = 2000  # after which a browser reconnects


class Transport(Protocol):
    """How a stream's events reach the client."""

    async def send_hello(self, event_id: str) -> None:
        """Send the resume token at which the stream starts."""

    async def send(self, messages: Sequence[ClientEvent]) -> None:
        """Send events."""

    async def send_keep_alive(self, event_id: str) -> None:
        """Send the current resume token while there are no events."""


async def stream_events(
    stopping: asyncio.Event, session: Session, subscription: Subscription, transport: Transport
) -> CloseReason:
    """Send events until the key is revoked, the client is too slow or disconnects, or the gateway shuts down."""
    return await first_completed(
        until_shutdown(stopping), until_revoked(session), _send_events(session, subscription, transport)
    )


async def _send_events(session: Session, subscription: Subscription, transport: Transport) -> CloseReason:
    async with asyncio.timeout(SEND_S_MAX):
        await transport.send_hello(subscription.id)
    messages = await subscription.reset_beyond_end()
    while True:
        async with asyncio.timeout(SEND_S_MAX):
            await transport.send(messages)
        subscription.principal = session.principal
        try:
            messages = await subscription.next_messages(KEEP_ALIVE_S)
        except SlowConsumerError:
            return OVERFLOW
        if not messages:
            async with asyncio.timeout(SEND_S_MAX):
                await transport.send_keep_alive(subscription.id)


class EventStream(EventSourceResponse):
    """A subscription as a response of server-sent events; the last event is the close reason."""

    def __init__(self, stopping: asyncio.Event, session: Session, subscription: Subscription) -> None:
        super().__init__((), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._stopping = stopping
        self._session = session
        self._subscription = subscription

    async def stream_response(self, send: Send) -> None:
        """Send the stream."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        transport = _EventStreamTransport(send)
        reason = await close_reason_of(stream_events(self._stopping, self._session, self._subscription, transport))
        async with asyncio.timeout(SEND_S_MAX):
            await transport.send_end(reason)


class _EventStreamTransport:
    def __init__(self, send: Send) -> None:
        self._send = send

    async def send_hello(self, event_id: str) -> None:
        await self._write(format_sse_event(comment="hello", id=event_id, retry=RETRY_MS))

    async def send(self, messages: Sequence[ClientEvent]) -> None:
        if messages:
            await self._write(
                b"".join(
                    format_sse_event(event=message.name, data_str=message.text, id=message.id) for message in messages
                )
            )

    async def send_keep_alive(self, event_id: str) -> None:
        # An id without data updates a browser's last event id and dispatches no event.
        await self._write(format_sse_event(comment="alive", id=event_id))

    async def send_end(self, reason: CloseReason) -> None:
        name = "overflow" if reason is OVERFLOW else "end"
        text = orjson.dumps({"code": reason.code, "detail": reason.reason}).decode()
        await self._write(format_sse_event(event=name, data_str=text))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


async def serve_websocket(
    websocket: WebSocket, stopping: asyncio.Event, session: Session, opening: Coroutine[Any, Any, Subscription]
) -> None:
    """Send the events of a subscription that is being opened over an accepted WebSocket, then close it."""

    async def run() -> CloseReason:
        return await stream_events(stopping, session, await opening, _WebSocketTransport(websocket))

    await close_websocket(websocket, await close_reason_of(first_completed(run(), _until_message(websocket))))


async def _until_message(websocket: WebSocket) -> CloseReason:
    message = await websocket.receive()
    if message["type"] == "websocket.disconnect":
        return DISCONNECTED
    return CloseReason(WS_1008_POLICY_VIOLATION, "this endpoint does not accept messages")


class _WebSocketTransport:
    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def send_hello(self, event_id: str) -> None:
        await self._send_control("hello", event_id)

    async def send(self, messages: Sequence[ClientEvent]) -> None:
        for message in messages:
            # The text is JSON already.
            await self._websocket.send_text(f'{{"type":"{message.name}","id":"{message.id}","data":{message.text}}}')

    async def send_keep_alive(self, event_id: str) -> None:
        await self._send_control("alive", event_id)

    async def _send_control(self, name: str, event_id: str) -> None:
        await self._websocket.send_text(f'{{"type":"{name}","id":"{event_id}"}}')
