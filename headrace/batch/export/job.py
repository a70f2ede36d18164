"""An export, put together from the settings."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from uuid import UUID

from headrace.batch.export.formats import form_of
from headrace.batch.export.measured import Quality, measured_frames
from headrace.batch.export.reading import Samples
from headrace.batch.export.request import ExportRequest, check
from headrace.batch.export.run import Export, ExportResult, Shard, asked_before, finished
from headrace.batch.export.target import opened_target
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.exports import Exports
from headrace.store.catalog.labels import Labels


async def export(
    settings: Settings, request: ExportRequest, to: str, *, until_us: int | None, progress: Callable[[Shard], None]
) -> ExportResult:
    """Write the export that `request` asks for; without `until_us` it reaches to now, or as far as it did before.

    Raises:
        HeadraceError: the request contradicts itself, the target holds another export, there is no such version of
            labels, or a service is away.
    """
    check(request)
    form = form_of(request.format)
    dsn = settings.postgres_dsn.get_secret_value()
    with opened_target(to, settings) as target:
        if request.wanted.labelled is not None:
            async with Labels.open(dsn) as labels:
                await labels.version(request.wanted.labelled)
        async with Exports.open(dsn) as exports:
            settled_us = await exports.settled_until_us()
            if until_us is not None and until_us > settled_us:
                raise HeadraceError(
                    "option_invalid",
                    "--until lies ahead: records that it includes may still come in",
                    hint="give a time that has passed",
                    exit_code=Exit.USAGE,
                )
            wanted = replace(request.wanted, until_us=until_us or settled_us)
            request = await asked_before(target, replace(request, wanted=wanted), until_given=until_us is not None)
            if (before := await finished(target)) is not None:
                return before
            measured = None
            if request.quality:
                measured = await _measured(settings, request)
            samples = Samples(
                exports, Blobs.from_settings(settings), request, has_media=form.has_media, measured=measured
            )
            return await Export(samples, target, form, request, progress=progress).run()


async def _measured(settings: Settings, request: ExportRequest) -> dict[UUID, Quality]:
    ended = threading.Event()
    try:
        return await asyncio.to_thread(
            measured_frames, settings, request.quality, until_us=request.wanted.until_us, ended=ended
        )
    finally:
        ended.set()  # whoever interrupts the command does not wait for the whole topic
