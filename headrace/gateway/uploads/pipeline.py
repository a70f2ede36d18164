"""The path of an upload: receive and inspect a file, publish it, and wait until it is durable."""

from dataclasses import dataclass

from headrace.gateway.uploads.inspection import Inspector
from headrace.gateway.uploads.memory import UploadMemory
from headrace.gateway.uploads.publish import FileDetails, PublishedItem, UploadPublisher, UploadSource
from headrace.gateway.uploads.receiving import ReceivedBody
from headrace.gateway.uploads.results import IngestResults
from headrace.gateway.uploads.scanning import Scanner
from headrace.store.blobs.blob_store import Blobs


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

    async def publish_file(
        self, source: UploadSource, received: ReceivedBody, details: FileDetails, *, traceparent: str | None
    ) -> PublishedItem:
        """Inspect a received file and publish it; raises as `Inspector.inspect` and `UploadPublisher.publish_file`."""
        inspected = await self.receiver.inspector.inspect(received.head, received.size_bytes)
        return await self.publisher.publish_file(source, received, inspected, details, traceparent=traceparent)
