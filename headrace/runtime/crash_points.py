"""The crash points: where tests end a process to prove that no data is lost there.

`HEADRACE_CRASH_AT=<point>[:<nth>]` arms one of them: the process ends when it reaches the point for the nth time (by
default the first) without flushing or closing anything. Only the environment can arm a point, not `.env`. Without the
variable, `reached` does nothing.
"""

import os
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import count
from typing import NoReturn, TypeAlias

from headrace.runtime.errors import Exit, HeadraceError

VARIABLE = "HEADRACE_CRASH_AT"


class CrashPoint(StrEnum):
    """The durable steps in their order; a test checks that each is called."""

    # Spool, for each write to its disk, and for each event
    SPOOL_BEFORE_FSYNC = "spool_before_fsync"
    SPOOL_AFTER_FSYNC = "spool_after_fsync"
    SPOOL_AFTER_SEND = "spool_after_send"
    SPOOL_BEFORE_DELETE = "spool_before_delete"
    # Worker, for each message of a batch
    AFTER_DECODE = "after_decode"
    AFTER_HASH = "after_hash"
    # Worker, for each object
    BEFORE_PUT = "before_put"
    AFTER_PUT = "after_put"
    # Worker, for each batch
    TX_BEGAN = "tx_began"
    AFTER_BLOBS = "after_blobs"
    AFTER_RECORDS = "after_records"
    AFTER_SIGHTINGS = "after_sightings"
    AFTER_OUTBOX = "after_outbox"
    BEFORE_COMMIT = "before_commit"
    AFTER_COMMIT = "after_commit"
    BEFORE_ACK = "before_ack"
    # Relay, for each transaction
    RELAY_BEFORE_SEND = "relay_before_send"
    RELAY_BEFORE_COMMIT = "relay_before_commit"
    RELAY_AFTER_SEND = "relay_after_send"
    RELAY_BEFORE_MARK = "relay_before_mark"
    RELAY_AFTER_MARK = "relay_after_mark"
    # Redrive of dead letters, for each group, and between for each message
    REDRIVE_BEFORE_CLAIM = "redrive_before_claim"
    REDRIVE_AFTER_CLAIM = "redrive_after_claim"
    REDRIVE_BEFORE_PUBLISH = "redrive_before_publish"
    REDRIVE_AFTER_PUBLISH = "redrive_after_publish"
    REDRIVE_BEFORE_MARK = "redrive_before_mark"
    # Collection of orphans, for each group, and between for each object
    COLLECT_AFTER_MARK = "collect_after_mark"
    COLLECT_BEFORE_DELETE = "collect_before_delete"
    COLLECT_AFTER_DELETE = "collect_after_delete"
    COLLECT_BEFORE_RELEASE = "collect_before_release"
    # Erasure, for each page of rows, and for each object
    ERASE_AFTER_BEGIN = "erase_after_begin"
    ERASE_BEFORE_COMMIT = "erase_before_commit"
    ERASE_AFTER_COMMIT = "erase_after_commit"
    ERASE_BEFORE_OBJECT = "erase_before_object"
    ERASE_AFTER_OBJECT = "erase_after_object"
    ERASE_BEFORE_RELEASE = "erase_before_release"
    ERASE_BEFORE_REPORT = "erase_before_report"
    # Recovery, for each step
    RECOVER_AFTER_BEGIN = "recover_after_begin"
    RECOVER_AFTER_LEARN = "recover_after_learn"
    RECOVER_AFTER_REWIND = "recover_after_rewind"
    RECOVER_AFTER_MARK = "recover_after_mark"
    RECOVER_BEFORE_FINISH = "recover_before_finish"
    # Transfer, for each part of a body, and for each body
    TRANSFER_AFTER_PART = "transfer_after_part"
    TRANSFER_BEFORE_PUT = "transfer_before_put"
    TRANSFER_AFTER_PUT = "transfer_after_put"
    # Replay, once; for each batch; once
    REPLAY_AFTER_BEGIN = "replay_after_begin"
    REPLAY_BEFORE_COMMIT = "replay_before_commit"
    REPLAY_AFTER_COMMIT = "replay_after_commit"
    REPLAY_BEFORE_END = "replay_before_end"
    # Backfill of a consumer group, for each topic, and between for each batch
    BACKFILL_AFTER_BEGIN = "backfill_after_begin"
    BACKFILL_BEFORE_SAVE = "backfill_before_save"
    BACKFILL_AFTER_SAVE = "backfill_after_save"
    BACKFILL_BEFORE_END = "backfill_before_end"
    BACKFILL_AFTER_END = "backfill_after_end"
    # Archive and restore, for each object that they write
    MOVE_BEFORE_PUT = "move_before_put"
    MOVE_AFTER_PUT = "move_after_put"
    MOVE_BEFORE_NOTE = "move_before_note"
    MOVE_AFTER_NOTE = "move_after_note"
    MOVE_BEFORE_DELETE = "move_before_delete"
    MOVE_AFTER_DELETE = "move_after_delete"


Reached: TypeAlias = Callable[[CrashPoint], None]


def nowhere(_point: CrashPoint) -> None:
    """Do nothing: `reached` if no point is armed."""


def armed(environment: Mapping[str, str], end: Callable[[CrashPoint, int], None]) -> Reached:
    """Return the function to call at each point; it calls `end` with the point and the count at the armed point.

    Raises:
        HeadraceError: the variable does not name a point, or its count is not a positive number.
    """
    text = environment.get(VARIABLE, "")
    if not text:
        return nowhere
    name, _, count_text = text.partition(":")
    nth = int(count_text) if count_text.isdecimal() else 0 if count_text else 1
    if name not in set(CrashPoint) or nth < 1:
        raise HeadraceError(
            "setting_invalid",
            f"{VARIABLE} is {text!r}, which is no crash point",
            hint=f"<point> or <point>:<nth>, with one of {', '.join(CrashPoint)}",
            exit_code=Exit.USAGE,
        )
    point, hits = CrashPoint(name), count(1)  # the counter is safe to use from several threads

    def reached(current: CrashPoint) -> None:
        if current == point and next(hits) == nth:
            end(point, nth)

    return reached


def end_at_once(point: CrashPoint, nth: int) -> NoReturn:
    """End this process without flushing or closing anything, after one line on standard error."""
    os.write(2, f"ended at the crash point {point}, time {nth}\n".encode())
    os._exit(Exit.CRASHED)


reached: Reached = armed(os.environ, end_at_once)
