"""The errors of a transactional producer, by what the relay and the consumers do next."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # noqa: SLF001


class ProducerResetError(Exception):
    """A step failed with an unknown outcome: close the producer and begin again at what is committed."""


class FencedError(Exception):
    """Another relay has taken over: this one must end."""


def kafka_fault(doing: str, error: KafkaError) -> ProducerResetError | FencedError:
    """Classify a Kafka error; `doing` names the interrupted step."""
    if error.code() in _FENCED:
        return FencedError(f"another relay took over while {doing}")
    return ProducerResetError(f"Kafka failed while {doing}: {error.str()}")


@contextmanager
def kafka_faults(doing: str) -> Iterator[None]:
    """Translate librdkafka's errors into ours.

    Raises:
        ProducerResetError, FencedError.
    """
    try:
        yield
    except KafkaException as error:
        raise kafka_fault(doing, error.args[0]) from None
    except BufferError:
        raise ProducerResetError(f"librdkafka's queue was full while {doing}") from None
