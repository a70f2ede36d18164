"""A continuous feed of frames and LDOs over one WebSocket, each answered once it is durable.

At most WINDOW messages are unanswered at a time; beyond that nothing is read, and TCP holds the sender back.
"""

import asyncio
from functools import partial
from typing import Any

import orjson
from starlette.websockets import WebSocket

from headrace.gateway.auth.guard import limit_upload_bytes, require_source_access
from headrace.gateway.live.close_codes import (
    GONE,
    REFUSED,
    SEND_S_MAX,
    TOO_BIG,
    UNSUPPORTED,
    CloseReason,
    Session,
    close,
    ending_of,
    first_of,
    until_stopping,
    until_unwelcome,
)
from headrace.gateway.live.feed_messages import (
    HEADER_BYTES_MAX,
    FeedMessageError,
    FrameSaid,
    Header,
    header_of,
    ldo_metadata,
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
from headrace.schemas.digest import sha256_hex
from headrace.schemas.events import Kind, Ldo
from headrace.schemas.limits import INLINE_BYTES_MAX
from headrace.schemas.reject import RejectCode, RejectedError

WINDOW = 32
ACK_S_MAX = 15.0  # while the window is full no pong is read either: a WebSocket is given up 20 s after a ping
_HASH_IN_THREAD_BYTES_MIN = 256 * 1024


class Feed:
    """One feed."""

    def __init__(self, websocket: WebSocket, guest: Session, pipeline: UploadPipeline, settings: Settings) -> None:
        """Serve an accepted WebSocket."""
        self._websocket = websocket
        self._guest = guest
        self._pipeline = pipeline
        self._settings = settings
        self._window = asyncio.Semaphore(WINDOW)
        self._at_work: set[asyncio.Task[None]] = set()

    async def run(self, stopping: asyncio.Event) -> None:
        """Take messages until the feed ends, and close it."""
        work = first_of(until_stopping(stopping), until_unwelcome(self._guest), self._read())
        ending = await ending_of(work)
        for one in self._at_work:
            one.cancel()
        await close(self._websocket, ending)

    async def _read(self) -> CloseReason:
        await self._say({"type": "hello", "window": WINDOW, "frame_bytes_max": INLINE_BYTES_MAX})
        while True:
            await self._window.acquire()
            try:
                header, body = await self._next()
            except FeedMessageError as wrong:
                return wrong.ending
            held = await self._pipeline.receiver.memory.reserve(len(body))
            task = asyncio.create_task(self._take(header, body))
            self._at_work.add(task)
            task.add_done_callback(partial(self._done, held))

    def _done(self, held: int, task: asyncio.Task[None]) -> None:
        # As a callback, so that it also runs for a task that was cancelled before it began.
        self._at_work.discard(task)
        self._pipeline.receiver.memory.release(held)
        self._window.release()

    async def _next(self) -> tuple[Header, bytes]:
        """Return the next header, and the bytes that belong to it."""
        text = await self._receive()
        if isinstance(text, bytes):
            raise FeedMessageError(CloseReason(UNSUPPORTED, "bytes came without a header before them"))
        raw = text.encode(errors="surrogatepass")
        if len(raw) > HEADER_BYTES_MAX:
            raise FeedMessageError(CloseReason(TOO_BIG, f"a text message has at most {HEADER_BYTES_MAX} bytes"))
        header = header_of(raw)
        if header.type == "ldo":
            return header, raw
        try:
            async with asyncio.timeout(self._settings.gateway_body_stall_s_max):
                body = await self._receive()
        except TimeoutError:
            raise FeedMessageError(CloseReason(REFUSED, "a frame's bytes did not follow its header")) from None
        if isinstance(body, str):
            raise FeedMessageError(CloseReason(REFUSED, "a frame's header has to be followed by its bytes"))
        return header, body

    async def _receive(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise FeedMessageError(GONE)
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text

    async def _take(self, header: Header, body: bytes) -> None:
        try:
            taking = self._frame(header, body) if header.type == "frame" else self._ldo(body)
            answer = await self._answer(header, await taking)
        except Exception as error:  # noqa: BLE001 - one message must not take the feed with it
            answer = _refused(header, as_problem(error))
        await ending_of(self._last_say(answer))

    async def _answer(self, header: Header, taken: PublishedItem) -> dict[str, Any]:
        results = self._pipeline.results
        [outcome] = await results.wait.outcomes([taken.message], min(results.answer_s_max, ACK_S_MAX))
        return {
            "type": "ack",
            "seq": header.seq,
            "status": status_of(outcome),
            "record_id": str(taken.message.record_id),
            "sha256": taken.item.digest,
        }

    async def _frame(self, header: Header, body: bytes) -> PublishedItem:
        said = FrameSaid.of(header.fields)
        await limit_upload_bytes(self._guest.connection, self._guest.caller, len(body))
        source = self._source(said.site, said.source_id)
        said.check(len(body))
        if len(body) >= _HASH_IN_THREAD_BYTES_MIN:
            digest = await asyncio.to_thread(sha256_hex, body)
        else:
            digest = sha256_hex(body)
        if said.sha256 not in {None, digest}:
            raise RejectedError(RejectCode.DIGEST_MISMATCH, f"the SHA-256 of what came is {digest}")
        if self._pipeline.receiver.scanner is not None:
            await self._pipeline.receiver.scanner.scan(body)
        found = await self._pipeline.receiver.inspector.inspect(body, len(body))
        if found.kind is not Kind.FRAME:
            raise RejectedError(RejectCode.NOT_AN_IMAGE, "a feed takes single images; send videos to POST /ingest")
        received = ReceivedBody(digest, len(body), body, body, None)
        details = FileDetails(captured_at_us=said.captured_at_us)
        return await self._pipeline.publisher.publish_file(
            source, received, found, details, traceparent=request_traceparent(self._guest.connection)
        )

    async def _ldo(self, raw: bytes) -> PublishedItem:
        await limit_upload_bytes(self._guest.connection, self._guest.caller, len(raw))
        said = ldo_metadata(raw)
        source = self._source(said.site, said.source_id)
        origin = self._pipeline.publisher.origin(source, said.captured_at_us)
        event = Ldo(**fields_of(origin), ldo_id=said.ldo_id, body=said.body)
        return await self._pipeline.publisher.publish(event, request_traceparent(self._guest.connection))

    def _source(self, site: str | None, source_id: str | None) -> UploadSource:
        default = UploadSource(self._settings.gateway_site, "")
        source = resolve_source(self._guest.caller, site, source_id, default)
        require_source_access(self._guest.connection, self._guest.caller, source.site, source.source_id)
        return source

    async def _last_say(self, answer: dict[str, Any]) -> CloseReason:
        await self._say(answer)
        return GONE

    async def _say(self, said: dict[str, Any]) -> None:
        async with asyncio.timeout(SEND_S_MAX):
            await self._websocket.send_text(orjson.dumps(said).decode())


def _refused(header: Header, problem: Problem) -> dict[str, Any]:
    said = {"type": "refused", "seq": header.seq, "code": problem.code, "detail": problem.detail}
    wait_s = (problem.headers or {}).get("Retry-After")
    return said if wait_s is None else {**said, "retry_after_s": int(wait_s)}
