"""A stack for a test or a demonstration, gone without a trace afterwards."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headrace.native.config import Brokers, ServiceSpec, Store
from headrace.native.info import StackInfo
from headrace.native.stack import StackOptions, down, up


def _silent(_: str) -> None:
    return


@contextmanager
def temporary_stack(
    store: Store = "minio",
    brokers: Brokers = 1,
    *,
    services: tuple[ServiceSpec, ...] = (),
    state_dir: Path | None = None,
    progress: Callable[[str], None] = _silent,
) -> Iterator[StackInfo]:
    """Run a stack in a directory of its own, or in the given one, and remove both at the end.

    When this process is killed the stack's supervisor sees it and does the same. Raises what `up` raises.
    """
    state_dir = state_dir or Path(tempfile.mkdtemp(prefix="headrace-"))
    try:
        yield up(StackOptions(state_dir, store, brokers, services, owner_pid=os.getpid()), progress)
    finally:
        down(state_dir, purge=True, progress=progress)
