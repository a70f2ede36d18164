"""Runs of `headrace erase`, and of the check that must find nothing afterwards."""

import asyncio
from typing import Any

from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from tests.commands import RunCommand, run_in_process


async def erase(
    settings: Settings, *args: str, crash_at: str = "", code: int = Exit.OK, run: RunCommand = run_in_process
) -> dict[str, Any]:
    """Run the command, and end it at a crash point if one is named; return its JSON."""
    result = await asyncio.to_thread(run, settings, "erase", *args, "--json", crash_at=crash_at)
    assert result.code == (Exit.CRASHED if crash_at else code), result.err
    return result.json


async def fsck_is_clean(settings: Settings) -> None:
    result = await asyncio.to_thread(run_in_process, settings, "fsck", "--json")
    assert (result.code, result.json["findings"]) == (Exit.OK, {}), result.err
