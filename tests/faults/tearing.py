"""Damaging the files of a spool as a crash of the machine may: what was never said to be durable, and no more."""

import os
import stat
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from unittest.mock import patch

from headrace.producers.spool.segments import (
    HEAD_BYTES,
    MARKER,
    START_BYTES,
    entries,
    segment_files,
    size_of_entry,
    unpack,
)
from headrace.producers.spool.state import SpoolState
from headrace.schemas.codec import decode
from headrace.schemas.events import Cid, Clip, Frame, Kind, Ldo
from headrace.schemas.topics import input_topic

_GARBAGE_BYTES_MAX = 3000
_EVENTS = {input_topic(kind).name: event for kind, event in zip(Kind, (Cid, Frame, Clip, Ldo), strict=True)}


@dataclass(frozen=True, slots=True)
class Torn:
    """What was done, and how many events the spool must count as damaged for it: those that later ones stand behind."""

    how: str
    damaged: int


def tear(directory: Path, durable: Container[int], random: Random) -> Torn | None:
    """Damage the newest file of a spool behind the last event whose number is in `durable`; None where it has none."""
    state = SpoolState.read(directory)
    files = list(segment_files(directory))
    if state is None or not files:
        return None
    salt, path = bytes.fromhex(state.salt), files[-1]
    data = path.read_bytes()
    safe = _safe_bytes(data, salt, durable)
    how, torn = _damaged(data, safe, random)
    path.write_bytes(torn)
    before, after = ({entry.number for entry in entries(content, salt)} for content in (data, torn))
    behind = max(after, default=0)
    return Torn(how, sum(state.acknowledged <= number < behind for number in before - after))


@contextmanager
def fsyncs(note: Callable[[int, int], None]) -> Iterator[None]:
    """Call `note` with the inode and the size of each file of this process that is made durable."""
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        about = os.fstat(descriptor)
        if stat.S_ISREG(about.st_mode):
            note(about.st_ino, about.st_size)

    with patch.object(os, "fsync", noted):
        yield


def lose_power(directory: Path, synced: Mapping[int, int]) -> int:
    """Leave of a spool's segments what was made durable, by inode, as a loss of power may; return the bytes cut off."""
    cut = 0
    for path in segment_files(directory):
        about = path.stat()
        left = min(synced.get(about.st_ino, 0), about.st_size)
        os.truncate(path, left)
        cut += about.st_size - left
    return cut


def _safe_bytes(data: bytes, salt: bytes, durable: Container[int]) -> int:
    """Return where the last event ends that was said to be durable. A file that has none may be torn anywhere."""
    safe = 0
    for entry in entries(data, salt):
        message = unpack(entry.payload)
        if decode(message.value, _EVENTS[message.topic]).sequence in durable:
            safe = entry.end
    return safe


def _damaged(data: bytes, safe: int, random: Random) -> tuple[str, bytes]:
    how = random.choice(("cut", "flipped", "garbage", "half an entry")) if safe < len(data) else "garbage"
    at = random.randrange(safe, max(len(data), safe + 1))
    match how:
        case "cut":
            return how, data[:at]
        case "flipped":
            return how, data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]
        case "half an entry":
            begin = max(data.find(MARKER, max(safe, START_BYTES)), 0)
            # A whole one would be another event with the number of one that is there, which no crash makes.
            size = min(size_of_entry(data[begin : begin + HEAD_BYTES]), len(data) - begin)
            return how, data + data[begin : begin + random.randrange(1, size)]
        case _:
            return how, data + random.choice((b"", MARKER)) + random.randbytes(random.randrange(1, _GARBAGE_BYTES_MAX))
