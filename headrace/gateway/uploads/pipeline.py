"""The path of an upload: receive and inspect a file, publish it, and wait until it is durable."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pebble import ProcessExpired

from headrace.gateway.uploads.inspection import Inspected, Inspector, inspected_video
from headrace.gateway.uploads.memory import UploadMemory
from headrace.gateway.uploads.metadata import LdoMetadata
from headrace.gateway.uploads.publish import FileDetails, PublishedItem, UploadPublisher, UploadSource
from headrace.gateway.uploads.receiving import ReceivedBody
from headrace.gateway.uploads.results import IngestResults
from headrace.gateway.uploads.scanning import Scanner
from headrace.schemas.limits import KIB
from headrace.schemas.media_probe import VideoHeader
from headrace.schemas.reject import RejectCode, RejectedError
from headrace.schemas.validate import check_header
from headrace.store.blobs.blob_store import Blobs

PARSE_BYTES_MAX = 4 * KIB  # of JSON that is parsed on the event loop

T = TypeVar("T", str, bytes)


@dataclass(frozen=True, slots=True)
class UploadReceiver:
    """What receiving a file needs: the blob store, the memory that uploads share, and what examines files."""

    blobs: Blobs
    memory: UploadMemory
    scanner: Scanner | None
    inspector: Inspector


@dataclass(frozen=True, slots=True)
class UploadPipeline:
    """The three steps of an upload."""

    receiver: UploadReceiver
    publisher: UploadPublisher
    results: IngestResults

    async def publish_file(  # noqa: PLR0913 - the file and what is to become of it
        self,
        source: UploadSource,
        received: ReceivedBody,
        details: FileDetails,
        *,
        traceparent: str | None,
        caller: str,
        accepted: Callable[[], Awaitable[None]] | None = None,
    ) -> PublishedItem:
        """Inspect a received file and publish it; raises as `Inspector.inspect` and `UploadPublisher.publish_file`.

        `accepted` is awaited between the two, and may refuse it.
        """
        inspected = await self._inspected(received, caller)
        if accepted is not None:
            await accepted()
        return await self.publisher.publish_file(source, received, inspected, details, traceparent=traceparent)

    async def _inspected(self, received: ReceivedBody, caller: str) -> Inspected:
        inspector, claim, probe = self.receiver.inspector, received.claim, received.probe
        if received.body is not None:
            return await inspector.inspect(received.body, caller=caller)
        assert claim is not None
        assert probe is not None
        header = probe.header()
        check_header(header, received.size_bytes)
        if isinstance(header, VideoHeader):
            return inspected_video(header)
        return await inspector.inspect_later(lambda: self.receiver.blobs.get(claim), caller=caller)

    async def parse_metadata(self, parse: Callable[[T], LdoMetadata], raw: T, *, caller: str) -> LdoMetadata:
        """Parse the metadata of an LDO: large ones in a child, because the event loop serves every caller.

        Raises:
            RejectedError: they are invalid or too large.
            Problem: they hold credentials (422), or parsing took too long (503).
        """
        if len(raw) <= PARSE_BYTES_MAX:
            return parse(raw)
        try:
            return await self.receiver.inspector.run(parse, raw, caller=caller)
        except (ProcessExpired, MemoryError):
            raise RejectedError(RejectCode.TOO_LARGE, "parsing metadata exceeded its memory limit") from None
