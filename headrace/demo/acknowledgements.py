"""The messages that Kafka acknowledged, against which everything else is checked."""

import threading
from collections import Counter
from dataclasses import dataclass

from headrace.producers import Acknowledged, Delivery, NotDeliveredError
from headrace.schemas.events import Kind
from headrace.schemas.reject import RejectCode
from headrace.schemas.topics import input_topic

_KIND_OF = {input_topic(kind).name: kind for kind in Kind}


@dataclass(frozen=True, slots=True, order=True)
class MessageOffset:
    """The topic, partition and offset of a message."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, order=True)
class RecordKey:
    """The kind and the digest of a record."""

    kind: Kind
    digest: str


class Acknowledgements:
    """Records every acknowledged message; thread-safe."""

    def __init__(self) -> None:
        """Start empty."""
        self._changed = threading.Condition()
        self._open = 0
        self._good: dict[MessageOffset, RecordKey] = {}
        self._poison: dict[MessageOffset, RejectCode] = {}
        self._faults: list[str] = []

    @property
    def good(self) -> dict[MessageOffset, RecordKey]:
        """Messages that must become a record or a sighting of one."""
        with self._changed:
            return dict(self._good)

    @property
    def poison(self) -> dict[MessageOffset, RejectCode]:
        """Messages that must become a dead letter, with its expected code."""
        with self._changed:
            return dict(self._poison)

    @property
    def faults(self) -> tuple[str, ...]:
        """Why messages were not acknowledged or a source could not publish."""
        with self._changed:
            return tuple(self._faults)

    @property
    def published(self) -> int:
        """The number of messages that Kafka acknowledged."""
        return len(self._good) + len(self._poison)

    def dead_letters(self) -> dict[str, int]:
        """Return the expected number of dead letters by code."""
        return {str(code): count for code, count in sorted(Counter(self.poison.values()).items())}

    def expect(self, delivery: Delivery) -> None:
        """Record a delivery once it is acknowledged."""
        with self._changed:
            self._open += 1
        delivery.add_done_callback(self._settle)

    def expect_poison(self) -> None:
        """Announce a poison message; `poisoned` or `poison_failed` must follow."""
        with self._changed:
            self._open += 1

    def poisoned(self, offset: MessageOffset, code: RejectCode) -> None:
        """Record a poison message that Kafka acknowledged."""
        with self._changed:
            self._poison[offset] = code
            self._close()

    def poison_failed(self, why: str) -> None:
        """Record a poison message that Kafka did not acknowledge."""
        with self._changed:
            self._faults.append(why)
            self._close()

    def fail(self, why: str) -> None:
        """Record why a source could not publish."""
        with self._changed:
            self._faults.append(why)

    def settled(self, timeout_s: float) -> bool:
        """Wait until no delivery is pending; return False on timeout."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout_s)

    def _settle(self, delivery: Delivery) -> None:
        error = delivery.exception()
        with self._changed:
            match error:
                case None:
                    acknowledged: Acknowledged = delivery.result()
                    self._good[MessageOffset(acknowledged.topic, acknowledged.partition, acknowledged.offset)] = (
                        RecordKey(_KIND_OF[acknowledged.topic], acknowledged.digest)
                    )
                case NotDeliveredError():
                    self._faults.append(error.what)
                case _:
                    self._faults.append(str(error))
            self._close()

    def _close(self) -> None:
        self._open -= 1
        self._changed.notify_all()
