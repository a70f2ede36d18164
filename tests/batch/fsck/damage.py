"""Damages a store, and runs a check."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from headrace.batch.fsck.check import FsckOptions, open_and_check
from headrace.batch.fsck.findings import FsckProblem, FsckReport
from headrace.runtime.settings import Settings
from headrace.store.blobs.blob_store import Blobs


async def fsck(settings: Settings, blobs: Blobs, **options: Any) -> FsckReport:
    await asyncio.sleep(1.1)  # times of objects may be whole seconds, and the grace is none
    return await open_and_check(settings, blobs, FsckOptions(**options))


def problems(report: FsckReport) -> set[tuple[FsckProblem, str]]:
    return {(finding.problem, finding.name) for finding in report.findings}


async def overwrite(blobs: Blobs, key: str, data: bytes) -> None:
    async def once() -> AsyncIterator[bytes]:
        yield data

    await blobs.put_stream(key, once())


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
