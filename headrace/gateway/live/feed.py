"""A continuous feed of frames and LDOs over one WebSocket: each message is answered once it is durable.

At most WINDOW messages are in progress; beyond that the gateway reads nothing, and TCP blocks the sender.
"""

import asyncio
from functools import partial
from typing import Any

import orjson
from starlette.status import WS_1003_UNSUPPORTED_DATA, WS_1008_POLICY_VIOLATION, WS_1009_MESSAGE_TOO_BIG
from starlette.websockets import WebSocket

from headrace.gateway.auth.guard import limit_upload_bytes, require_source_access
from headrace.gateway.live.feed_messages import (
    HEADER_BYTES_MAX,
    FeedHeader,
    FeedMessageError,
    FrameHeader,
    parse_header,
    parse_ldo,
)
from headrace.gateway.live.session import (
    DISCONNECTED,
    SEND_S_MAX,
    CloseReason,
    Session,
    close_reason_of,
    close_websocket,
    first_completed,
    until_revoked,
    until_shutdown,
)
from headrace.gateway.problems import Problem, as_problem
from headrace.gateway.uploads.pipeline import UploadPipeline
from headrace.gateway.uploads.publish import (
    FileDetails,
    PublishedItem,
    UploadSource,
    request_traceparent,
    resolve_source,
)
from headrace.gateway.uploads.receiving import ReceivedBody
from headrace.gateway.uploads.results import status_of
from headrace.producers.source import fields_of
from headrace.runtime.settings import Settings
from headrace.schemas.digest import HASH_IN_THREAD_BYTES_MIN, sha256_hex
from headrace.schemas.events import Kind, Ldo
from headrace.schemas.limits import INLINE_BYTES_MAX
from headrace.schemas.reject import RejectCode, RejectedError

WINDOW = 32
ACK_S_MAX = 15.0  # while the window is full no pong is read either, and a WebSocket closes 20 s after a ping


class Feed:
    """One feed."""

    def __init__(self, websocket: WebSocket, session: Session, pipeline: UploadPipeline, settings: Settings) -> None:
        """Serve an accepted WebSocket."""
        self._websocket = websocket
        self._session = session
        self._pipeline = pipeline
        self._settings = settings
        self._window = asyncio.Semaphore(WINDOW)
        self._in_progress: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Process messages until the feed ends, then close it."""
        work = first_completed(until_shutdown(stopping), until_revoked(self._session), self._read_messages())
        reason = await close_reason_of(work)
        for task in self._in_progress:
            task.cancel()
        await close_websocket(self._websocket, reason)

    async def _read_messages(self) -> CloseReason:
        await self._send({"type": "hello", "window": WINDOW, "frame_bytes_max": INLINE_BYTES_MAX})
        while True:
            await self._window.acquire()
            try:
                header, body = await self._next_message()
            except FeedMessageError as error:
                return error.reason
            caller = self._session.principal.actor
            reserved = await self._pipeline.receiver.memory.reserve(caller, len(body))
            task = asyncio.create_task(self._process(header, body))
            self._in_progress.add(task)
            task.add_done_callback(partial(self._done, caller, reserved))

    def _done(self, caller: str, reserved: int, task: asyncio.Task[None]) -> None:
        # A callback, because it also runs for a task that is cancelled before it starts.
        self._in_progress.discard(task)
        self._pipeline.receiver.memory.give_back(caller, reserved)
        self._window.release()

    async def _next_message(self) -> tuple[FeedHeader, bytes]:
        """Return the next header and its body."""
        text = await self._receive()
        if isinstance(text, bytes):
            raise FeedMessageError(
                CloseReason(WS_1003_UNSUPPORTED_DATA, "a binary message requires a header before it")
            )
        raw = text.encode(errors="surrogatepass")
        if len(raw) > HEADER_BYTES_MAX:
            reason = f"a text message has at most {HEADER_BYTES_MAX} bytes"
            raise FeedMessageError(CloseReason(WS_1009_MESSAGE_TOO_BIG, reason))
        header = parse_header(raw)
        return header, raw if header.type == "ldo" else await self._frame_body()

    async def _frame_body(self) -> bytes:
        try:
            async with asyncio.timeout(self._settings.gateway_body_stall_s_max):
                body = await self._receive()
        except TimeoutError:
            reason = "timed out waiting for a frame's bytes after its header"
            raise FeedMessageError(CloseReason(WS_1008_POLICY_VIOLATION, reason)) from None
        if isinstance(body, str):
            reason = "a frame's header must be followed by a binary message"
            raise FeedMessageError(CloseReason(WS_1008_POLICY_VIOLATION, reason))
        return body

    async def _receive(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise FeedMessageError(DISCONNECTED)
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    async def _process(self, header: FeedHeader, body: bytes) -> None:
        try:
            publishing = self._publish_frame(header, body) if header.type == "frame" else self._publish_ldo(body)
            answer = await self._acknowledgement(header, await publishing)
        except Exception as error:  # noqa: BLE001 - one message must not end the feed
            answer = _refusal(header, as_problem(error))
        await close_reason_of(self._send_answer(answer))

    async def _acknowledgement(self, header: FeedHeader, published: PublishedItem) -> dict[str, Any]:
        results = self._pipeline.results
        [status] = await results.wait.outcomes([published.message], min(results.answer_s_max, ACK_S_MAX))
        return {
            "type": "ack",
            "seq": header.seq,
            "status": status_of(status),
            "record_id": str(published.message.record_id),
            "sha256": published.item.digest,
        }

    async def _publish_frame(self, header: FeedHeader, body: bytes) -> PublishedItem:
        frame = FrameHeader.parse(header.fields)
        await limit_upload_bytes(self._session.connection, self._session.principal, len(body))
        source = self._source(frame.site, frame.source_id)
        frame.check_size(len(body))
        if len(body) >= HASH_IN_THREAD_BYTES_MIN:
            digest = await asyncio.to_thread(sha256_hex, body)
        else:
            digest = sha256_hex(body)
        if frame.sha256 not in {None, digest}:
            raise RejectedError(RejectCode.DIGEST_MISMATCH, f"the SHA-256 of the received bytes is {digest}")
        receiver = self._pipeline.receiver
        if receiver.scanner is not None:
            await receiver.scanner.scan(body)
        inspected = await receiver.inspector.inspect(body, caller=self._session.principal.actor)
        if inspected.kind is not Kind.FRAME:
            raise RejectedError(RejectCode.NOT_AN_IMAGE, "a feed accepts single images; send videos to POST /ingest")
        received = ReceivedBody(digest, len(body), body)
        details = FileDetails(captured_at_us=frame.captured_at_us)
        return await self._pipeline.publisher.publish_file(
            source, received, inspected, details, traceparent=request_traceparent(self._session.connection)
        )

    async def _publish_ldo(self, raw: bytes) -> PublishedItem:
        await limit_upload_bytes(self._session.connection, self._session.principal, len(raw))
        metadata = await self._pipeline.parse_metadata(parse_ldo, raw, caller=self._session.principal.actor)
        source = self._source(metadata.site, metadata.source_id)
        origin = self._pipeline.publisher.origin(source, metadata.captured_at_us)
        event = Ldo(**fields_of(origin), ldo_id=metadata.ldo_id, body=metadata.body)
        return await self._pipeline.publisher.publish(event, request_traceparent(self._session.connection))

    def _source(self, site: str | None, source_id: str | None) -> UploadSource:
        default = UploadSource(self._settings.gateway_site, "")
        source = resolve_source(self._session.principal, site, source_id, default)
        require_source_access(self._session.connection, self._session.principal, source.site, source.source_id)
        return source

    async def _send_answer(self, answer: dict[str, Any]) -> CloseReason:
        await self._send(answer)
        return DISCONNECTED

    async def _send(self, message: dict[str, Any]) -> None:
        async with asyncio.timeout(SEND_S_MAX):
            await self._websocket.send_text(orjson.dumps(message).decode())


def _refusal(header: FeedHeader, problem: Problem) -> dict[str, Any]:
    refusal = {"type": "refused", "seq": header.seq, "code": problem.code, "detail": problem.detail}
    wait_s = (problem.headers or {}).get("Retry-After")
    return refusal if wait_s is None else {**refusal, "retry_after_s": int(wait_s)}
