"""What nobody comes back for: uploads whose time is over go with their parts, and joins that were cut short go on."""

import asyncio
from contextlib import suppress
from uuid import UUID

from headrace.gateway.problems import Problem
from headrace.gateway.services import Services
from headrace.gateway.tus.assemble import join
from headrace.gateway.tus.lock import held
from headrace.gateway.tus.parts import clear
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.schemas.reject import RejectedError

SWEEP_EVERY_S_MAX = 60.0
SWEEP_EVERY_S_MIN = 1.0
UPLOADS_AT_ONCE_MAX = 1000


async def sweep(here: Services) -> None:
    """Sweep until cancelled."""
    every_s = here.settings.gateway_upload_expiry_hours * 3600
    while True:
        await asyncio.sleep(max(SWEEP_EVERY_S_MIN, min(every_s, SWEEP_EVERY_S_MAX)))
        for work in (_clear_away, _join_what_was_left):
            try:
                await work(here)
            except HeadraceError as error:
                get_log().warning(Action.RETRYING, service="sweeper", code=error.code, why=error.what)
            except Exception as error:  # noqa: BLE001 - it has to sweep again, whatever broke
                get_log().error(Action.HANDLER_FAILED, why=type(error).__name__, exc_info=error)


async def _clear_away(here: Services) -> None:
    """Remove what is over; one gateway at a time does, the others need not."""
    async with here.uploads.leading() as first:
        if not first:
            return
        await here.access.expire_answers(here.settings.gateway_upload_expiry_hours)
        await here.requests.expire(here.settings.outbox_retention_days)
        for upload_id in await here.uploads.over(UPLOADS_AT_ONCE_MAX):
            # The row goes last, so that a sweeper which dies here leaves nothing that nobody knows of.
            await clear(here.blobs, upload_id)
            await here.uploads.remove_over(upload_id)


async def _join_what_was_left(here: Services) -> None:
    for upload_id in await here.uploads.unjoined(UPLOADS_AT_ONCE_MAX):
        try:
            await _join(here, upload_id)
        except HeadraceError as error:  # of this one, perhaps: the others are not to wait for it
            get_log().warning(Action.RETRYING, service="sweeper", code=error.code, why=error.what)


async def _join(here: Services, upload_id: UUID) -> None:
    async with held(here.uploads, upload_id) as hold:
        if hold is None or hold.upload.state != "joining":
            return
        with suppress(Problem, RejectedError):  # the upload says so by now
            await join(here, hold)
