"""Delete expired uploads with their parts, and assemble uploads whose gateway stopped before it could."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from headrace.gateway.problems import Problem
from headrace.gateway.tus.assemble import assemble
from headrace.gateway.tus.lock import locked
from headrace.gateway.tus.parts import delete_parts
from headrace.gateway.uploads.pipeline import UploadPipeline
from headrace.runtime.errors import HeadraceError
from headrace.runtime.logs import Action, get_log
from headrace.runtime.settings import Settings
from headrace.schemas.reject import RejectedError
from headrace.store.requests.access import Access
from headrace.store.requests.uploads import Uploads

SWEEP_EVERY_S_MAX = 60.0
SWEEP_EVERY_S_MIN = 1.0
UPLOADS_PER_SWEEP_MAX = 1000


@dataclass(frozen=True, slots=True)
class Sweeper:
    """Sweeps the uploads of all gateways, once in a while."""

    settings: Settings
    access: Access
    uploads: Uploads
    pipeline: UploadPipeline

    async def run(self) -> None:
        """Sweep until cancelled."""
        expiry_s = self.settings.gateway_upload_expiry_hours * 3600
        while True:
            await asyncio.sleep(max(SWEEP_EVERY_S_MIN, min(expiry_s, SWEEP_EVERY_S_MAX)))
            for step in (self._delete_expired, self._assemble_unfinished):
                try:
                    await step()
                except HeadraceError as error:
                    get_log().warning(Action.RETRYING, service="sweeper", code=error.code, why=error.what)
                except Exception as error:  # noqa: BLE001 - the next sweep must run whatever failed in this one
                    get_log().error(Action.HANDLER_FAILED, why=type(error).__name__, exc_info=error)

    async def _delete_expired(self) -> None:
        """Delete what has expired; only the gateway that gets the lock does this."""
        async with self.uploads.sweep_lock() as is_acquired:
            if not is_acquired:
                return
            await self.access.expire_answers(self.settings.gateway_upload_expiry_hours)
            await self.access.expire_audit(self.settings.gateway_audit_retention_days)
            await self.pipeline.results.requests.expire(self.settings.outbox_retention_days)
            for upload_id in await self.uploads.expired(UPLOADS_PER_SWEEP_MAX):
                # The row is deleted last, so that an interrupted sweep leaves no unknown objects.
                await delete_parts(self.pipeline.receiver.blobs, upload_id)
                await self.uploads.delete_expired(upload_id)

    async def _assemble_unfinished(self) -> None:
        for upload_id in await self.uploads.unassembled(UPLOADS_PER_SWEEP_MAX):
            try:
                await self._assemble(upload_id)
            except HeadraceError as error:  # it may concern this upload only, so the others go on
                get_log().warning(Action.RETRYING, service="sweeper", code=error.code, why=error.what)

    async def _assemble(self, upload_id: UUID) -> None:
        async with locked(self.uploads, upload_id) as lock:
            if lock is None or lock.upload.state != "joining":
                return
            with suppress(Problem, RejectedError):  # the upload's row has the reason
                await assemble(self.uploads, self.pipeline, lock)
