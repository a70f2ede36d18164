"""Carrying a subscription's events to a caller: as server-sent events, or as a WebSocket's messages."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol

import orjson
from fastapi.sse import EventSourceResponse, format_sse_event
from starlette.types import Send
from starlette.websockets import WebSocket

from headrace.gateway.live.close_codes import (
    GONE,
    OVERFLOW,
    REFUSED,
    SEND_S_MAX,
    CloseReason,
    Session,
    close,
    ending_of,
    first_of,
    until_stopping,
    until_unwelcome,
)
from headrace.gateway.live.subscription import Sent, SlowConsumerError, Subscription

KEEP_ALIVE_S = 15.0
RETRY_MS = 2000  # after which a browser connects again


class Transport(Protocol):
    """Where a stream's events go."""

    async def hello(self, event_id: str) -> None:
        """Say where the stream begins."""

    async def events(self, sent: Sequence[Sent]) -> None:
        """Carry events."""

    async def alive(self, event_id: str) -> None:
        """Say that there is nothing to carry, and where the stream stands."""


async def carry(stopping: asyncio.Event, guest: Session, subscription: Subscription, sink: Transport) -> CloseReason:
    """Carry events until the caller is no longer welcome, too slow or gone, or the gateway stops."""
    return await first_of(until_stopping(stopping), until_unwelcome(guest), _pump(guest, subscription, sink))


async def _pump(guest: Session, subscription: Subscription, sink: Transport) -> CloseReason:
    async with asyncio.timeout(SEND_S_MAX):
        await sink.hello(subscription.id)
    sent = await subscription.check()
    while True:
        async with asyncio.timeout(SEND_S_MAX):
            await sink.events(sent)
        subscription.caller = guest.caller
        try:
            sent = await subscription.take(KEEP_ALIVE_S)
        except SlowConsumerError:
            return OVERFLOW
        if not sent:
            async with asyncio.timeout(SEND_S_MAX):
                await sink.alive(subscription.id)


class EventStream(EventSourceResponse):
    """A subscription as server-sent events; the last one says why the stream ends."""

    def __init__(self, stopping: asyncio.Event, guest: Session, subscription: Subscription) -> None:
        super().__init__((), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self._stopping = stopping
        self._guest = guest
        self._subscription = subscription

    async def stream_response(self, send: Send) -> None:
        """Send the stream."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        sink = _EventSink(send)
        ending = await ending_of(carry(self._stopping, self._guest, self._subscription, sink))
        async with asyncio.timeout(SEND_S_MAX):
            await sink.end(ending)


class _EventSink:
    def __init__(self, send: Send) -> None:
        self._send = send

    async def hello(self, event_id: str) -> None:
        await self._write(format_sse_event(comment="hello", id=event_id, retry=RETRY_MS))

    async def events(self, sent: Sequence[Sent]) -> None:
        if sent:
            await self._write(b"".join(format_sse_event(event=one.name, data_str=one.text, id=one.id) for one in sent))

    async def alive(self, event_id: str) -> None:
        # An id without data moves a browser's last event id, and is no event.
        await self._write(format_sse_event(comment="alive", id=event_id))

    async def end(self, ending: CloseReason) -> None:
        name = "overflow" if ending is OVERFLOW else "end"
        text = orjson.dumps({"code": ending.code, "detail": ending.reason}).decode()
        await self._write(format_sse_event(event=name, data_str=text))
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, body: bytes) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": True})


async def carry_over(
    websocket: WebSocket, stopping: asyncio.Event, guest: Session, beginning: Coroutine[Any, Any, Subscription]
) -> None:
    """Carry the events of a subscription that begins over an accepted WebSocket, and close it."""

    async def carried() -> CloseReason:
        return await carry(stopping, guest, await beginning, _WebSocketSink(websocket))

    await close(websocket, await ending_of(first_of(carried(), _until_gone(websocket))))


async def _until_gone(websocket: WebSocket) -> CloseReason:
    message = await websocket.receive()
    return GONE if message["type"] == "websocket.disconnect" else CloseReason(REFUSED, "nothing is taken here")


class _WebSocketSink:
    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def hello(self, event_id: str) -> None:
        await self._say("hello", event_id)

    async def events(self, sent: Sequence[Sent]) -> None:
        for one in sent:
            # What is in the text is JSON already.
            await self._websocket.send_text(f'{{"type":"{one.name}","id":"{one.id}","data":{one.text}}}')

    async def alive(self, event_id: str) -> None:
        await self._say("alive", event_id)

    async def _say(self, name: str, event_id: str) -> None:
        await self._websocket.send_text(f'{{"type":"{name}","id":"{event_id}"}}')
