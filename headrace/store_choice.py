from collections.abc import Callable
from pathlib import Path

from headrace.native import Store, status
from headrace.native.minio import binary_at_hand


def choose(wanted: Store | None, state_dir: Path, say: Callable[[str], None]) -> Store:
    """Return the store to use: what is wanted, else the one the stack was started with, else MinIO if it is installed.

    Raises:
        HeadraceError: HEADRACE_MINIO_BINARY names no program.
    """
    if wanted is not None:
        return wanted
    known = status(state_dir).info
    if known is not None:
        return known.store
    if binary_at_hand():
        return "minio"
    say("store: a local directory, because MinIO is not installed; `headrace up --store minio` builds it (5 minutes)")
    return "local"
