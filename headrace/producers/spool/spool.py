"""A durable queue on this machine's disk: appended messages survive any crash, in order, until acknowledged.

One thread writes, and one fsync serves all waiting appends. Files are never written again after a restart: torn or
damaged bytes are skipped, and missing messages are known by number. A full spool drops its oldest file of which no
message was read yet, and counts its messages by source.
"""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from headrace.producers.spool.quarantine import Quarantine
from headrace.producers.spool.segments import (
    SALT_BYTES,
    START_BYTES,
    Segment,
    SpoolEntry,
    pack_entry,
    salt_in,
    segment_files,
    unpack,
)
from headrace.producers.spool.state import SpoolState
from headrace.runtime import metrics
from headrace.runtime.crash_points import CrashPoint, reached
from headrace.runtime.durable_files import sync_directory, try_lock
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.limits import MIB

SPOOL_BYTES_MAX = 1024 * MIB
SEGMENT_BYTES_MAX = 64 * MIB
SEGMENTS_MIN = 8  # a full spool drops a segment at a time, so a segment has at most an eighth of it
WRITE_BYTES_MAX = 8 * MIB  # served by one fsync
CURSOR_S = 0.5  # between saves of the acknowledged position; at most so much is sent again after a crash
QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class _Draft:
    message: SpoolEntry
    numbered: Callable[[int], None]
    size_bytes: int
    durable: "Future[int]" = field(default_factory=Future)


class Spool:
    """Messages on disk. Any thread may append; one thread reads.

    `dropped` is called with each dropped range of numbers [from, to).

    Raises:
        HeadraceError: spool_in_use by another process, spool_unusable after a disk error.
    """

    def __init__(
        self, directory: Path, *, bytes_max: int = SPOOL_BYTES_MAX, dropped: Callable[[int, int], None] | None = None
    ) -> None:
        """Open a directory, creating it if needed, and recover the messages of an earlier process."""
        self._directory = directory
        self._bytes_max = bytes_max
        self._segment_bytes_max = min(SEGMENT_BYTES_MAX, bytes_max // SEGMENTS_MIN)
        self._tell_dropped = dropped or (lambda _first, _end: None)
        self._changed = threading.Condition(threading.RLock())
        self._drafts: SimpleQueue[_Draft | None] = SimpleQueue()
        self._in_flight: dict[int, None] = {}
        self._saved, self._saved_s = -1, 0.0
        self._closed = False
        try:
            self._lock = _locked(directory)
            self._recover()
        except OSError as error:
            raise self._refused("spool_unusable", error) from None
        self._writer = threading.Thread(target=self._write, name="spool writer", daemon=True)
        self._writer.start()

    def append(self, message: SpoolEntry, numbered: Callable[[int], None] = lambda _number: None) -> int:
        """Return the message's number once it is durable; `numbered` gets it before the message can be read.

        Raises:
            HeadraceError: spool_full, spool_write_failed or spool_closed; the message is not in the spool.
        """
        size_bytes = len(message.value) + sum(len(name) + len(value) for name, value in message.headers)
        draft = _Draft(message, numbered, size_bytes)
        with self._changed:
            if self._closed:
                raise HeadraceError("spool_closed", "the spool is closed", where=str(self._directory))
            self._drafts.put(draft)
        return draft.durable.result()

    def next(self, timeout_s: float) -> tuple[int, SpoolEntry] | None:
        """Return the next unread message, or None on timeout."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self._closed:
                if (read := self._read()) is not None:
                    return read
                if (left_s := deadline - time.monotonic()) <= 0:
                    self._settle()
                    return None
                self._changed.wait(left_s)
        return None

    def acknowledge(self, number: int) -> None:
        """Mark a message as done; its file is deleted once all messages in it are done."""
        with self._changed:
            self._in_flight.pop(number, None)
            self._settle()
            self._changed.notify_all()

    def rewind(self) -> None:
        """Continue reading at the oldest message that is not acknowledged."""
        with self._changed:
            self._in_flight.clear()
            self._expected = self._state.acknowledged
            self._reading, self._at = self._segments[0], START_BYTES

    @property
    def waiting(self) -> int:
        """The number of messages that are not acknowledged."""
        with self._changed:
            return self._state.missing(self._state.acknowledged, self._next)

    def dropped_of(self, source: str) -> int:
        """Return how many messages of a source (the message key) this spool has dropped since its creation."""
        return self._state.dropped[source]

    @property
    def spool_id(self) -> str:
        """16 hexadecimal digits that name this spool, whose counts begin at zero."""
        return self._state.spool_id

    def quarantine(self, number: int, message: SpoolEntry) -> None:
        """Mark a message as done that Kafka will never take, once it is kept in the quarantine.

        A full quarantine drops its oldest messages, counted as dropped.

        Raises:
            HeadraceError: spool_write_failed; the message stays where it is.
        """
        with self._changed:
            try:
                dropped = self._quarantine.add(number, message)
                if dropped:
                    self._state.dropped.update(dropped)
                    self._state.save(self._directory)
            except OSError as error:
                raise self._refused("spool_write_failed", error) from None
            metrics.producer_spool_lost_total.labels("quarantined").inc()
            metrics.producer_spool_lost_total.labels("dropped").inc(dropped.total())
            self.acknowledge(number)

    @property
    def quarantined(self) -> int:
        """The number of messages in the quarantine."""
        return len(self._quarantine.numbers())

    def release(self) -> int:
        """Append what is in the quarantine again, as new messages; return their number. May be repeated."""
        numbers = self._quarantine.numbers()
        for number in numbers:
            if (message := self._quarantine.read(number)) is not None:
                self.append(message)
            self._quarantine.remove(number)
        return len(numbers)

    @property
    def damaged(self) -> int:
        """The number of messages that could not be read, since the creation of the spool."""
        return self._state.damaged

    def close(self) -> None:
        """Finish pending appends and close; unacknowledged messages stay. May be repeated."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        self._drafts.put(None)
        self._writer.join()
        with suppress(OSError):
            self._state.save(self._directory)
        for segment in self._segments:
            segment.close()
        os.close(self._lock)

    def _recover(self) -> None:
        files = list(segment_files(self._directory))
        state = SpoolState.read(self._directory)
        if state is None:
            salt = next(filter(None, map(salt_in, files)), None) or os.urandom(SALT_BYTES)
            state = SpoolState(salt.hex(), acknowledged=int(files[0].stem) if files else 0)
            state.save(self._directory)
        self._state, self._salt = state, bytes.fromhex(state.salt)
        self._quarantine = Quarantine(self._directory / QUARANTINE, self._salt, self._bytes_max // SEGMENTS_MIN)
        recovered = [Segment.recover(path, self._salt) for path in files]
        self._next = max(
            [state.acknowledged, *(segment.end for segment in recovered), *(upto for _, upto in state.gaps)]
        )
        self._segments: list[Segment] = []
        for segment in recovered:
            if state.missing(segment.first, segment.end) == 0:
                segment.delete()
            else:
                self._segments.append(segment)
        self._segments.append(Segment.create(self._directory, self._salt, self._next))
        self.rewind()
        self._measure()

    def _read(self) -> tuple[int, SpoolEntry] | None:
        while True:
            entry = self._reading.read(self._at, self._salt) if self._at < self._reading.size else None
            if entry is None:
                after = self._segments.index(self._reading) + 1
                if after == len(self._segments):
                    return None
                self._reading, self._at = self._segments[after], START_BYTES
                continue
            self._at = entry.end
            if entry.number < self._expected:
                continue
            if lost := self._state.missing(self._expected, entry.number):
                self._state.damaged += lost
                self._state.skip(self._expected, entry.number)
                metrics.producer_spool_lost_total.labels("damaged").inc(lost)
            self._expected = entry.number + 1
            self._in_flight[entry.number] = None
            return entry.number, unpack(entry.payload)

    def _settle(self) -> None:
        """Advance the acknowledged position, and delete files that are done."""
        state = self._state
        state.acknowledged = next(iter(self._in_flight), self._expected)
        state.gaps = [gap for gap in state.gaps if gap[1] > state.acknowledged]
        done = [
            segment
            for segment in self._segments[:-1]
            if segment.end <= state.acknowledged and segment is not self._reading
        ]
        moved = state.acknowledged != self._saved and time.monotonic() - self._saved_s > CURSOR_S
        if done or moved:
            self._saved, self._saved_s = state.acknowledged, time.monotonic()
            with suppress(OSError):  # a full disk; a later save has the same content
                state.save(self._directory)
                self._delete(done)
            self._measure()

    def _delete(self, segments: list[Segment]) -> None:
        for segment in segments:
            reached(CrashPoint.SPOOL_BEFORE_DELETE)
            self._segments.remove(segment)
            segment.delete()

    def _write(self) -> None:
        while (first := self._drafts.get()) is not None:
            batch, size_bytes = [first], first.size_bytes
            with suppress(Empty):
                while size_bytes < WRITE_BYTES_MAX:
                    more = self._drafts.get_nowait()
                    if more is None:
                        self._drafts.put(None)  # nothing is put after it
                        break
                    batch.append(more)
                    size_bytes += more.size_bytes
            self._write_batch(batch)

    def _write_batch(self, batch: list[_Draft]) -> None:
        try:
            entries = [pack_entry(self._salt, number, draft.message) for number, draft in enumerate(batch, self._next)]
            data = b"".join(entries)
            self._make_room(len(data))
            segment = self._segments[-1]
            segment.append(data)
            reached(CrashPoint.SPOOL_BEFORE_FSYNC)
            os.fsync(segment.descriptor)
            reached(CrashPoint.SPOOL_AFTER_FSYNC)
        except Exception as error:  # noqa: BLE001 - the waiting callers get any error
            with suppress(OSError):
                self._segments[-1].cut()
            known = self._refused("spool_write_failed", error) if isinstance(error, OSError) else error
            for draft in batch:
                draft.durable.set_exception(known)
        else:
            self._appended(segment, batch, len(data))

    def _appended(self, segment: Segment, batch: list[_Draft], size_bytes: int) -> None:
        with self._changed:
            numbers = range(self._next, self._next + len(batch))
            for number, draft in zip(numbers, batch, strict=True):
                draft.numbered(number)
                segment.sources[draft.message.key.decode(errors="replace")] += 1
            segment.size += size_bytes
            self._next = segment.end = numbers.stop
            self._measure()
            self._changed.notify_all()
        for number, draft in zip(numbers, batch, strict=True):
            draft.durable.set_result(number)

    def _make_room(self, size_bytes: int) -> None:
        """Start a new file if the current one is large enough, and drop old files if the spool is full."""
        with self._changed:
            active = self._segments[-1]
            full = sum(segment.size for segment in self._segments) + size_bytes > self._bytes_max
            if active.size > START_BYTES and (full or active.size + size_bytes > self._segment_bytes_max):
                self._segments.append(Segment.create(self._directory, self._salt, self._next))
            while sum(segment.size for segment in self._segments) + size_bytes > self._bytes_max:
                victim = next((segment for segment in self._segments[:-1] if segment.first >= self._expected), None)
                if victim is None:
                    raise HeadraceError(
                        "spool_full",
                        f"the spool has {self._bytes_max} bytes, all in flight, or the message is larger",
                        where=str(self._directory),
                        hint="increase the size of the spool",
                    )
                self._drop(victim)

    def _drop(self, victim: Segment) -> None:
        if self._reading is victim:
            after = self._segments[self._segments.index(victim) + 1]
            self._reading, self._at = after, START_BYTES
        dropped = self._state.missing(victim.first, victim.end)
        self._state.skip(victim.first, victim.end)
        self._state.dropped.update(victim.sources)
        # Saved before the file is deleted, so that dropped messages are counted exactly once.
        self._state.save(self._directory)
        self._delete([victim])
        metrics.producer_spool_lost_total.labels("dropped").inc(dropped)
        self._tell_dropped(victim.first, victim.end)

    def _refused(self, code: str, error: OSError) -> HeadraceError:
        hint = "free some space or use another directory; accepted messages are safe"
        return HeadraceError(
            code, f"the spool cannot use its disk: {error.strerror}", where=str(self._directory), hint=hint
        )

    def _measure(self) -> None:
        metrics.producer_spool_bytes.set(sum(segment.size for segment in self._segments))
        metrics.producer_spool_waiting_events.set(self._state.missing(self._state.acknowledged, self._next))


def _locked(directory: Path) -> int:
    """Create the directory if needed, and lock it for this process."""
    if not directory.is_dir():
        directory.mkdir(parents=True)
        sync_directory(directory.parent)
    lock = try_lock(directory / "lock", os.O_RDWR | os.O_CREAT)
    if lock is None:
        raise HeadraceError(
            "spool_in_use",
            "another process uses this spool",
            where=str(directory),
            hint="give each process its own directory",
            exit_code=Exit.USAGE,
        )
    return lock
