"""The state file of an import, which a later run resumes from.

It holds one JSON object per line, appended and fsynced, so a crash can only truncate the last line, which is then
ignored. It only saves work: without it, the import compares everything with the annotation API again, and publishes
frames again, which adds sightings and no records.
"""

import fcntl
import hashlib
import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from headrace.runtime.errors import HeadraceError

_LINE_BYTES_MAX = 1024  # lines have less than 100 bytes; this bounds the memory for a file that is not a state file


def state_path(folder: Path, platform_url: str, annotation_url: str) -> Path:
    """Return the path of the state file for an import between two APIs."""
    urls = "\n".join(url.rstrip("/") for url in (platform_url, annotation_url))
    pair = hashlib.sha256(urls.encode()).hexdigest()[:16]
    return folder / "import-platform" / f"{pair}.jsonl"


def sequence_fingerprint(*inputs: object) -> str:
    """Return a digest of everything that the import of a sequence depends on."""
    return hashlib.sha256(repr(inputs).encode()).hexdigest()[:32]


class ImportState:
    """An open state file, locked by one run at a time.

    Raises:
        HeadraceError: another run holds the lock, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        """Open, lock and read the file."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: bytes that a full disk has refused must not be written later.
            self._file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "r+b")
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise HeadraceError(
                "import_running",
                "another import between the same two APIs is running",
                where=str(path),
                hint="wait until it has finished",
            ) from None
        self._published: set[int] = set()
        self._sequences: dict[int, str] = {}
        # Whether the file ends in a partial line, which the next write terminates first.
        self._has_partial_line = False
        with open(self._file.fileno(), "rb", closefd=False) as file:
            while line := file.readline(_LINE_BYTES_MAX):
                self._load(line)
                self._has_partial_line = not line.endswith(b"\n")

    def is_published(self, detection_id: int) -> bool:
        """Return whether a detection's frame was published."""
        return detection_id in self._published

    def is_imported(self, sequence_id: int, fingerprint: str) -> bool:
        """Return whether a sequence was imported with this fingerprint."""
        return self._sequences.get(sequence_id) == fingerprint

    def mark_published(self, detection_id: int) -> None:
        """Record that Kafka has acknowledged a detection's frame."""
        self._published.add(detection_id)
        self._append({"detection": detection_id})

    def mark_imported(self, sequence_id: int, fingerprint: str) -> None:
        """Record that a sequence is imported."""
        self._sequences[sequence_id] = fingerprint
        self._append({"sequence": sequence_id, "mark": fingerprint})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _append(self, entry: dict[str, Any]) -> None:
        line = b"\n" * self._has_partial_line + orjson.dumps(entry) + b"\n"
        self._has_partial_line = True
        unwritten = memoryview(line)
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
            os.fsync(self._file.fileno())
            self._has_partial_line = False
        except OSError as error:
            raise _unusable(self._path, error) from None

    def _load(self, line: bytes) -> None:
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        match entry:
            case {"detection": int(detection_id)}:
                self._published.add(detection_id)
            case {"sequence": int(sequence_id), "mark": str(fingerprint)}:
                self._sequences[sequence_id] = fingerprint
            case _:
                return


def _unusable(path: Path, error: OSError) -> HeadraceError:
    return HeadraceError(
        "state_unusable",
        f"cannot write the import's state file: {error.strerror}",
        where=str(path),
        hint="free some disk space, or set HEADRACE_STATE_DIR to another directory",
    )
