"""What was imported already, in a file: what a run that is killed leaves to the next one.

One JSON object a line, appended and synchronised, so a crash can only tear the last line, which is then passed over. It
only saves work: without it everything is compared with the annotation API again, and frames are published again, which
adds sightings and no records.
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

_LINE_BYTES_MAX = 1024  # of its own have below 100; a file without lines is not read as one


def state_path(folder: Path, platform_url: str, annotation_url: str) -> Path:
    """Return where the state of an import between these two stands."""
    urls = "\n".join(url.rstrip("/") for url in (platform_url, annotation_url))
    pair = hashlib.sha256(urls.encode()).hexdigest()[:16]
    return folder / "import-platform" / f"{pair}.jsonl"


def sequence_mark(*said: object) -> str:
    """Return a short name for all that a sequence's import depends on."""
    return hashlib.sha256(repr(said).encode()).hexdigest()[:32]


class ImportState:
    """The file, held by one run at a time.

    Raises:
        HeadraceError: another run holds it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        """Open it, and read what it says."""
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # No buffer: what a full disk refused is not written later, behind our back.
            self._file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "r+b")
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise HeadraceError(
                "import_running",
                "another import between the same two services is running",
                where=str(path),
                hint="wait until it has ended; both would do the same work",
            ) from None
        self._published: set[int] = set()
        self._sequences: dict[int, str] = {}
        # Whether the file ends in the middle of a line, which is then ended before the next one.
        self._is_torn = False
        with open(self._file.fileno(), "rb", closefd=False) as file:
            while line := file.readline(_LINE_BYTES_MAX):
                self._learn(line)
                self._is_torn = not line.endswith(b"\n")

    def is_published(self, detection_id: int) -> bool:
        """Say whether this service has a detection's frame."""
        return detection_id in self._published

    def is_imported(self, sequence_id: int, mark: str) -> bool:
        """Say whether a sequence was imported as it is now."""
        return self._sequences.get(sequence_id) == mark

    def published(self, detection_id: int) -> None:
        """Note that Kafka has acknowledged a detection's frame."""
        self._published.add(detection_id)
        self._append({"detection": detection_id})

    def imported(self, sequence_id: int, mark: str) -> None:
        """Note that a sequence is imported."""
        self._sequences[sequence_id] = mark
        self._append({"sequence": sequence_id, "mark": mark})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _append(self, said: dict[str, Any]) -> None:
        line = b"\n" * self._is_torn + orjson.dumps(said) + b"\n"
        self._is_torn = True
        left = memoryview(line)
        try:
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
            self._is_torn = False
        except OSError as error:
            raise _unusable(self._path, error) from None

    def _learn(self, line: bytes) -> None:
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        match said:
            case {"detection": int(detection_id)}:
                self._published.add(detection_id)
            case {"sequence": int(sequence_id), "mark": str(mark)}:
                self._sequences[sequence_id] = mark
            case _:
                return


def _unusable(path: Path, error: OSError) -> HeadraceError:
    return HeadraceError(
        "state_unusable",
        f"the import's state cannot be kept: {error.strerror}",
        where=str(path),
        hint="make room there, or set HEADRACE_STATE_DIR to another directory",
    )
