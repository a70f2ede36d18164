"""Runs of `headrace erase`, and of the check that must find nothing afterwards."""

import asyncio
from typing import Any

from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from tests.commands import headrace


async def erase(settings: Settings, *args: str, crash_at: str = "", code: int = Exit.OK) -> dict[str, Any]:
    """Run the command, and end it at a crash point if one is named; return its JSON."""
    result = await asyncio.to_thread(headrace, settings, "erase", *args, "--json", code=code, crash_at=crash_at)
    return result.json


async def fsck_is_clean(settings: Settings) -> None:
    result = await asyncio.to_thread(headrace, settings, "fsck", "--json")
    assert result.json["findings"] == {}
