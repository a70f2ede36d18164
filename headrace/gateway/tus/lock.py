"""Lock an upload for one writer, across gateways.

The lock is a lease in PostgreSQL: that of a gateway that was killed expires after LOCK_S.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

from headrace.runtime.background_task import background_task
from headrace.runtime.errors import HeadraceError
from headrace.store.requests.uploads import Upload, Uploads

LOCK_S = 30.0
_RENEW_EVERY_S = LOCK_S / 4


@dataclass(frozen=True, slots=True)
class UploadLock:
    """An upload as it stood when it was locked, and the id of the lock's holder."""

    upload: Upload
    holder: UUID


@asynccontextmanager
async def locked(uploads: Uploads, upload_id: UUID) -> AsyncIterator[UploadLock | None]:
    """Lock an unfinished upload while the context lasts; None where another holder has the lock."""
    holder = uuid4()
    upload = await uploads.hold(upload_id, holder, LOCK_S)
    if upload is None:
        yield None
        return
    try:
        async with background_task(_renew(uploads, upload_id, holder)):
            yield UploadLock(upload, holder)
    finally:
        with suppress(HeadraceError):  # the lock expires
            await uploads.release(upload_id, holder)


async def _renew(uploads: Uploads, upload_id: UUID, holder: UUID) -> None:
    while True:
        await asyncio.sleep(_RENEW_EVERY_S)
        with suppress(HeadraceError):
            # A holder that lost the lock learns it from `Uploads.record`, which then records nothing.
            await uploads.renew(upload_id, holder, LOCK_S)
