"""The components of the gateway as FastAPI dependencies: a route declares those that it uses.

`headrace.gateway.app` creates them and puts them into `app.state.components`, by their type.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

from fastapi import Depends
from starlette.requests import HTTPConnection

from headrace.gateway.capture.request_topic import CaptureRequestPublisher
from headrace.gateway.live.connection_limits import LiveConnections
from headrace.gateway.queries.cache import Cache
from headrace.gateway.uploads.pipeline import UploadPipeline
from headrace.runtime.health import Probes
from headrace.runtime.receipt_key import ReceiptKey
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.dead_letters import DeadLetters
from headrace.store.catalog.ldos import Ldos
from headrace.store.catalog.queries import Queries
from headrace.store.requests.access import Access
from headrace.store.requests.cameras import Cameras
from headrace.store.requests.ingest_requests import IngestRequests
from headrace.store.requests.ingest_status import IngestStatuses
from headrace.store.requests.uploads import Uploads

C = TypeVar("C")


def _component(kind: type[C]) -> Callable[[HTTPConnection], Awaitable[C]]:
    async def component(connection: HTTPConnection) -> C:
        instance: C = connection.app.state.components[kind]
        return instance

    return component


SettingsDep = Annotated[Settings, Depends(_component(Settings))]
ProbesDep = Annotated[Probes, Depends(_component(Probes))]
AccessDep = Annotated[Access, Depends(_component(Access))]
BlobsDep = Annotated[Blobs, Depends(_component(Blobs))]
CacheDep = Annotated[Cache, Depends(_component(Cache))]
CamerasDep = Annotated[Cameras, Depends(_component(Cameras))]
CaptureRequestPublisherDep = Annotated[CaptureRequestPublisher, Depends(_component(CaptureRequestPublisher))]
DeadLettersDep = Annotated[DeadLetters, Depends(_component(DeadLetters))]
IngestRequestsDep = Annotated[IngestRequests, Depends(_component(IngestRequests))]
IngestStatusesDep = Annotated[IngestStatuses, Depends(_component(IngestStatuses))]
LdosDep = Annotated[Ldos, Depends(_component(Ldos))]
LiveDep = Annotated[LiveConnections, Depends(_component(LiveConnections))]
PipelineDep = Annotated[UploadPipeline, Depends(_component(UploadPipeline))]
QueriesDep = Annotated[Queries, Depends(_component(Queries))]
ReceiptKeyDep = Annotated[ReceiptKey, Depends(_component(ReceiptKey))]
UploadsDep = Annotated[Uploads, Depends(_component(Uploads))]
