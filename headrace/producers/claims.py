"""Bodies too large for a message, put into the blob store before the message that names them."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from headrace.schemas.events import Clip, Frame
from headrace.schemas.limits import MIB
from headrace.store.blobs.blob_store import Blobs
from headrace.store.blobs.staging import stage

_CHUNK_BYTES = 4 * MIB


def stage_body(blobs: Blobs, event: Frame | Clip, body: bytes | Path) -> None:
    """Stage a body under the claim of its event; blocks until it is durable, and may be repeated.

    Raises:
        StoreUnavailable, StoreRefused: as every use of the store.
        OSError: the file cannot be read.
    """
    assert event.claim is not None
    work = stage(blobs, event.claim, _chunks(body), media_type=event.media_type)
    # A loop of its own, in a thread of its own: the caller may stand in a running event loop, where none can be run.
    with ThreadPoolExecutor(1, "staging") as one:
        one.submit(asyncio.run, work).result()


async def _chunks(body: bytes | Path) -> AsyncIterator[bytes]:
    if isinstance(body, Path):
        with body.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
    else:
        view = memoryview(body)
        for start in range(0, len(body), _CHUNK_BYTES):
            yield bytes(view[start : start + _CHUNK_BYTES])
