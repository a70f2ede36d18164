"""A publisher without a broker: librdkafka's own mock cluster, in this process, speaks the real protocol."""

from collections.abc import Iterator

import pytest

from headrace.producers import Delivery, Publisher
from headrace.producers.delivery import Acknowledged
from headrace.schemas.events import InputEvent

MOCK = {"test.mock.num.brokers": 1}


class EventRecorder:
    """Keeps what is handed over; every delivery is acknowledged at once, or fails with `fault`."""

    def __init__(self) -> None:
        self.events: list[InputEvent] = []
        self.fault: Exception | None = None

    def publish(self, event: InputEvent, **_options: object) -> Delivery:
        self.events.append(event)
        delivery = Delivery()
        if self.fault is not None:
            delivery.set_exception(self.fault)
        else:
            delivery.set_result(Acknowledged("topic", 0, len(self.events), getattr(event, "sha256", "")))
        return delivery

    def of(self, kind: type) -> list[InputEvent]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture
def recorder() -> EventRecorder:
    return EventRecorder()


@pytest.fixture
def mock_publisher() -> Iterator[Publisher]:
    with Publisher("mock", client=MOCK) as publisher:
        yield publisher
