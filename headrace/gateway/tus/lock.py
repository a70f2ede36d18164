"""One writer at a time to each upload, whichever gateway it comes to.

The hold is a row's, not a process's: that of a gateway which was killed ends by itself after HOLD_S.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID, uuid4

from headrace.runtime.background_task import background_task
from headrace.runtime.errors import HeadraceError
from headrace.store.requests.uploads import Upload, Uploads

HOLD_S = 30.0
_RENEW_EVERY_S = HOLD_S / 4


@dataclass(frozen=True, slots=True)
class Held:
    """An upload, as it stood when it was taken, and by whom it is held."""

    upload: Upload
    by: UUID


@asynccontextmanager
async def held(uploads: Uploads, upload_id: UUID) -> AsyncIterator[Held | None]:
    """Hold an unfinished upload for as long as the context lasts; None where it cannot be had now."""
    by = uuid4()
    upload = await uploads.hold(upload_id, by, HOLD_S)
    if upload is None:
        yield None
        return
    try:
        async with background_task(_renew(uploads, upload_id, by)):
            yield Held(upload, by)
    finally:
        with suppress(HeadraceError):  # then it ends by itself
            await uploads.release(upload_id, by)


async def _renew(uploads: Uploads, upload_id: UUID, by: UUID) -> None:
    while True:
        await asyncio.sleep(_RENEW_EVERY_S)
        with suppress(HeadraceError):
            # Whoever lost it finds out when it records something: nothing is counted then.
            await uploads.renew(upload_id, by, HOLD_S)
