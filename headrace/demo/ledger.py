"""What Kafka acknowledged: the list against which everything else is checked."""

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
    """Where a message stands in Kafka."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, order=True)
class RecordKey:
    """What a record is: its kind and its digest."""

    kind: Kind
    digest: str


class AckLedger:
    """Takes down every acknowledged message; may be used from several threads."""

    def __init__(self) -> None:
        """Begin empty."""
        self._changed = threading.Condition()
        self._open = 0
        self._good: dict[MessageOffset, RecordKey] = {}
        self._poison: dict[MessageOffset, RejectCode] = {}
        self._faults: list[str] = []

    @property
    def good(self) -> dict[MessageOffset, RecordKey]:
        """What should become, or be a sighting of, a record."""
        with self._changed:
            return dict(self._good)

    @property
    def poison(self) -> dict[MessageOffset, RejectCode]:
        """What should become a dead letter, with the code it should have."""
        with self._changed:
            return dict(self._poison)

    @property
    def faults(self) -> tuple[str, ...]:
        """What was not acknowledged, and why; or what kept a source from publishing."""
        with self._changed:
            return tuple(self._faults)

    @property
    def published(self) -> int:
        """How many messages Kafka acknowledged."""
        return len(self._good) + len(self._poison)

    def dead_letters(self) -> dict[str, int]:
        """Return how many dead letters there should be, by code."""
        return {str(code): count for code, count in sorted(Counter(self.poison.values()).items())}

    def expect(self, delivery: Delivery) -> None:
        """Take down a delivery once it is acknowledged."""
        with self._changed:
            self._open += 1
        delivery.add_done_callback(self._settle)

    def expect_poison(self) -> None:
        """Note that poison is on its way; `poisoned` or `fail` follows."""
        with self._changed:
            self._open += 1

    def poisoned(self, place: MessageOffset, code: RejectCode) -> None:
        """Take down poison that Kafka acknowledged."""
        with self._changed:
            self._poison[place] = code
            self._close()

    def poison_failed(self, why: str) -> None:
        """Take down poison that Kafka did not acknowledge."""
        with self._changed:
            self._faults.append(why)
            self._close()

    def fail(self, why: str) -> None:
        """Take down what kept a source from publishing."""
        with self._changed:
            self._faults.append(why)

    def settled(self, timeout_s: float) -> bool:
        """Wait until nothing is on its way any more; False when the time is over before."""
        with self._changed:
            return self._changed.wait_for(lambda: self._open == 0, timeout_s)

    def _settle(self, delivery: Delivery) -> None:
        error = delivery.exception()
        with self._changed:
            match error:
                case None:
                    at: Acknowledged = delivery.result()
                    self._good[MessageOffset(at.topic, at.partition, at.offset)] = RecordKey(
                        _KIND_OF[at.topic], at.digest
                    )
                case NotDeliveredError():
                    self._faults.append(error.what)
                case _:
                    self._faults.append(str(error))
            self._close()

    def _close(self) -> None:
        self._open -= 1
        self._changed.notify_all()
