"""The selection of an earlier export, from its manifest."""

import asyncio
import threading
from pathlib import Path
from uuid import UUID

from headrace.batch.export.manifest import MANIFEST, read_json
from headrace.batch.export.reading import measured_frames
from headrace.batch.export.request import parse_bounds
from headrace.batch.export.target import open_target
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.store.catalog.replays import ReplaySelection


async def selection_of_export(settings: Settings, target: str) -> tuple[ReplaySelection, tuple[UUID, ...]]:
    """Return what a finished export selected, and the records of it that it does not have.

    Raises:
        HeadraceError: there is no finished export, or Kafka or the store is unreachable.
    """
    manifest = None
    if "://" in target or _is_directory(target):
        with open_target(target, settings) as opened:
            manifest = await read_json(opened, MANIFEST)
    if not manifest:
        raise HeadraceError(
            "export_unknown",
            "there is no finished export",
            where=target,
            hint="name the target of `headrace export`, with its _manifest.json",
            exit_code=Exit.USAGE,
        )
    request = manifest["request"]
    selected = request["selection"]
    ids = None
    if request["quality"]:
        bounds, until_us = parse_bounds(",".join(request["quality"])), selected["until_us"]
        measured = await asyncio.to_thread(
            measured_frames, settings, bounds, until_us=until_us, cancelled=threading.Event()
        )
        ids = tuple(sorted(measured))
    wanted = ReplaySelection(
        kinds=None if selected["kinds"] is None else tuple(map(Kind, selected["kinds"])),
        sites=_tuple(selected["sites"]),
        source_ids=_tuple(selected["source_ids"]),
        captured_from_us=selected["captured_from_us"],
        captured_until_us=selected["captured_until_us"],
        ingested_until_us=selected["until_us"],
        labelled=selected["labelled"],
        labels=_tuple(request["labels"]),
        record_ids=ids,
        is_own=True,
    )
    return wanted, tuple(UUID(failure["record_id"]) for failure in manifest["failed"])


def _is_directory(target: str) -> bool:
    # Opening a directory that does not exist would make it.
    return Path(target).is_dir()


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)
