"""Log files of bounded size.

Their processes write through descriptors that they were given, so a file cannot be exchanged under them: it is copied
and then emptied. Lines that are written between the two are lost, which is better than a full disk.
"""

import os
import shutil
from pathlib import Path

LOG_BYTES_MAX = 64 * 1024 * 1024


def rotate(log: Path, bytes_max: int | None = None) -> bool:
    """Move a log beyond `bytes_max`, or else `LOG_BYTES_MAX`, to `<name>.log.1`; return whether it was. Repeatable.

    Whoever writes to it must have opened it for appending.
    """
    try:
        if log.stat().st_size <= (LOG_BYTES_MAX if bytes_max is None else bytes_max):
            return False
    except FileNotFoundError:
        return False
    old = log.with_suffix(".log.1")
    old.unlink(missing_ok=True)
    old.touch(mode=0o600)
    shutil.copyfile(log, old)
    os.truncate(log, 0)
    return True
