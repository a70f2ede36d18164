"""How the relay's work can end early; each says what happens next."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # noqa: SLF001


class ProducerResetError(Exception):
    """Something failed and what it left behind is not known: give the producer up and begin at what is committed."""


class FencedError(Exception):
    """Another relay has taken over: this one must end."""


def kafka_fault(doing: str, error: KafkaError) -> ProducerResetError | FencedError:
    """Return what a Kafka error means for the relay; `doing` says what it interrupted."""
    if error.code() in _FENCED:
        return FencedError(f"another relay took over while {doing}")
    return ProducerResetError(f"Kafka failed while {doing}: {error.str()}")


@contextmanager
def kafka_faults(doing: str) -> Iterator[None]:
    """Name librdkafka's errors as ours.

    Raises:
        ProducerResetError, FencedError.
    """
    try:
        yield
    except KafkaException as error:
        raise kafka_fault(doing, error.args[0]) from None
    except BufferError:
        raise ProducerResetError(f"librdkafka's queue was full while {doing}") from None
