"""How the relay's work can end early; each says what happens next."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from streams.start_over import StartOver

_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # noqa: SLF001


class Fenced(Exception):  # noqa: N818 - named for what happened
    """Another relay has taken over: this one must end."""


def kafka_fault(doing: str, error: KafkaError) -> StartOver | Fenced:
    """Return what a Kafka error means for the relay; `doing` says what it interrupted."""
    if error.code() in _FENCED:
        return Fenced(f"another relay took over while {doing}")
    return StartOver(f"Kafka failed while {doing}: {error.str()}")


@contextmanager
def kafka_faults(doing: str) -> Iterator[None]:
    """Name librdkafka's errors as ours.

    Raises:
        StartOver, Fenced.
    """
    try:
        yield
    except KafkaException as error:
        raise kafka_fault(doing, error.args[0]) from None
    except BufferError:
        raise StartOver(f"librdkafka's queue was full while {doing}") from None
