"""The file systems that hold a stack's data, and the room on them."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from headrace.native.config import StackConfig
from headrace.native.layout import StateDir


@dataclass(frozen=True, slots=True)
class Disk:
    """One file system: what of the stack it holds, and its free and total bytes."""

    holds: tuple[str, ...]
    path: Path
    free_bytes: int
    total_bytes: int


class DiskWatch:
    """Says once when a file system of the stack has too little room, and once when it has room again."""

    def __init__(self, state: StateDir, config: StackConfig, free_bytes_min: int, log: Callable[[str], None]) -> None:
        self._state = state
        self._config = config
        self._free_bytes_min = free_bytes_min
        self._log = log
        self._full: frozenset[Path] = frozenset()

    def check(self) -> None:
        """Look at the file systems; may be repeated."""
        disks = disks_of(self._state, self._config)
        full = frozenset(disk.path for disk in disks if disk.free_bytes < self._free_bytes_min)
        for disk in disks:
            if disk.path in full - self._full:
                self._log(
                    f"WARNING: disk almost full: {disk.free_bytes} bytes free for {', '.join(disk.holds)} below "
                    f"{disk.path}; free space: what ends is started again until there is room"
                )
            elif disk.path in self._full - full:
                self._log(f"disk: {disk.free_bytes} bytes free for {', '.join(disk.holds)} again")
        self._full = full


def disks_of(state: StateDir, config: StackConfig) -> tuple[Disk, ...]:
    """Return each file system of the stack once; a path that does not exist is left out."""
    parts = {
        "kafka": state.part("kafka"),
        "postgres": config.tools.postgres_home if config.tools else state.part("postgres"),
        "store": state.part("minio") if config.store == "minio" else state.blobs,
        "logs": state.root / "logs",
    }
    devices: dict[int, dict[str, Path]] = {}
    for name, path in parts.items():
        with suppress(OSError):
            devices.setdefault(os.stat(path).st_dev, {})[name] = path  # noqa: PTH116 - the number of its device
    return tuple(_disk(paths) for paths in devices.values())


def _disk(paths: dict[str, Path]) -> Disk:
    path = next(iter(paths.values()))
    usage = shutil.disk_usage(path)
    return Disk(tuple(paths), path, usage.free, usage.total)
