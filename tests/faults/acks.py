"""What the workload attempted and what the broker acknowledged, in a file that outlives both."""

import os
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, assert_never
from uuid import UUID

import orjson

from headrace.schemas.events import Cid, Clip, Frame, InputEvent, Kind, Ldo
from headrace.schemas.reject import RejectCode


class Place(NamedTuple):
    """Where a message stands in Kafka."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an event says beside its body, its source and its number: record and announcement must repeat it."""

    site: str
    captured_at_us: int
    media_type: str
    width: int | None = None
    height: int | None = None
    duration_us: int | None = None
    ldo_id: str | None = None
    code: str | None = None
    about: str | None = None
    attributes: str = "{}"


def described(event: InputEvent) -> Description:
    """Return what an event says."""
    own: dict[str, Any]  # what only this kind says
    match event:
        case Cid():
            own = {"media_type": "application/json", "code": event.code}
        case Ldo():
            own = {"media_type": "application/json", "ldo_id": event.ldo_id}
        case Frame():
            own = {"width": event.width, "height": event.height}
        case Clip():
            own = {"duration_us": event.duration_us, "about": event.about}
        case _:
            assert_never(event)
    if isinstance(event, Frame | Clip):
        own |= {"media_type": event.media_type, "attributes": event.attributes.decode()}
    return Description(site=event.site, captured_at_us=event.captured_at_us, **own)


@dataclass(frozen=True, slots=True)
class Attempt:
    """A message that was, or is about to be, handed to Kafka.

    `digest` and `size_bytes` are those of the record's body; where a dead letter is to come of it, those of the
    message's value. `record_id` and `says` are None then, and `expect` the code that it has to be rejected with.
    """

    number: int
    kind: Kind
    topic: str
    source_id: str
    sequence: int
    digest: str
    size_bytes: int
    record_id: UUID | None
    expect: RejectCode | None
    says: Description | None = None


@dataclass(frozen=True, slots=True)
class Ack:
    """The broker has an attempt, at this place."""

    number: int
    place: Place


@dataclass(frozen=True, slots=True)
class Acks:
    """A file of them, read. One number may have been acknowledged at several places."""

    attempts: dict[int, Attempt] = field(default_factory=dict)
    acks: list[Ack] = field(default_factory=list)


class AckFile:
    """Writes attempts and acknowledgements as lines; any thread may. Goes on where an earlier process ended."""

    def __init__(self, path: Path) -> None:
        """Open the file to append to it; what a killed writer left half written is cut off."""
        self._lock = threading.Lock()
        self._file = path.open("a+b")
        _cut_torn_line(path)

    def attempt(self, attempt: Attempt) -> None:
        """Take down what is about to be published, so that nothing can be in Kafka that is not in this file."""
        self._write({"attempt": asdict(attempt)})

    def ack(self, number: int, place: Place) -> None:
        """Take down that the broker has it."""
        self._write({"ack": number, "place": [*place]})

    def sync(self) -> None:
        """Make all of it durable."""
        with self._lock:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make it durable and leave; may be repeated."""
        with self._lock:
            if not self._file.closed:
                os.fsync(self._file.fileno())
                self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, content: dict[str, Any]) -> None:
        line = orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
        with self._lock:
            self._file.write(line)
            self._file.flush()


def read_acks(path: Path) -> Acks:
    """Read a file; a last line that is torn counts as never written.

    Raises:
        ValueError: any other line is not what an AckFile writes.
    """
    acks = Acks()
    lines = path.read_bytes().split(b"\n")
    for index, line in enumerate(lines[:-1]):
        try:
            _take(acks, orjson.loads(line))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {index + 1} of {path.name} is no attempt and no acknowledgement: {error}") from None
    return acks


def _take(acks: Acks, content: dict[str, Any]) -> None:
    if "attempt" in content:
        fields = content["attempt"]
        attempt = Attempt(
            number=int(fields["number"]),
            kind=Kind(fields["kind"]),
            topic=str(fields["topic"]),
            source_id=str(fields["source_id"]),
            sequence=int(fields["sequence"]),
            digest=str(fields["digest"]),
            size_bytes=int(fields["size_bytes"]),
            record_id=None if fields["record_id"] is None else UUID(fields["record_id"]),
            expect=None if fields["expect"] is None else RejectCode(fields["expect"]),
            says=None if fields["says"] is None else Description(**fields["says"]),
        )
        acks.attempts[attempt.number] = attempt
    else:
        topic, partition, offset = content["place"]
        acks.acks.append(Ack(int(content["ack"]), Place(str(topic), int(partition), int(offset))))


def _cut_torn_line(path: Path) -> None:
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)
