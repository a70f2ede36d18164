"""What was imported already, in a file: what a run that is killed leaves to the next one.

One JSON object a line, appended and synchronised, so a crash can only tear the last line, which is then passed over. It
only saves work: without it everything is compared with the annotation API again, and frames are published again, which
adds sightings and no records.
"""

import fcntl
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from runtime.errors import HeadraceError


def state_path(folder: Path, platform_url: str, annotation_url: str) -> Path:
    """Return where the state of an import between these two stands."""
    pair = hashlib.sha256(f"{platform_url}\n{annotation_url}".encode()).hexdigest()[:16]
    return folder / "import-platform" / f"{pair}.jsonl"


def sequence_mark(*said: object) -> str:
    """Return a short name for all that a sequence's import depends on."""
    return hashlib.sha256(repr(said).encode()).hexdigest()[:32]


class State:
    """The file, held by one run at a time.

    Raises:
        HeadraceError: another run holds it, or it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        """Open it, and read what it says."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise _unusable(path, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise HeadraceError(
                "import_running", "another import between the same two services is running", where=str(path),
                hint="wait until it has ended; both would do the same work",
            ) from None  # fmt: skip
        self._published: set[int] = set()
        self._sequences: dict[int, str] = {}
        self._file.seek(0)
        content = self._file.read()
        for line in content.splitlines():
            self._learn(line)
        if content and not content.endswith(b"\n"):
            self._file.write(b"\n")

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
        try:
            self._file.write(orjson.dumps(said) + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unusable(Path(self._file.name), error) from None

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
        "state_unusable", f"the import's state cannot be kept: {error.strerror}", where=str(path),
        hint="make room there, or set HEADRACE_STATE_DIR to another directory",
    )  # fmt: skip
