"""The errors of a transactional producer, by what the relay and the consumers do next."""

from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaError, KafkaException

from headrace.runtime.acl import Operation, with_acl

PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001
"""The errors of messages that were given up with their transaction; why is said by the error of the transaction."""
_FENCED = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})  # noqa: SLF001

_MESSAGE_REFUSED = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
    }
)
_TOPIC_REFUSED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.POLICY_VIOLATION,
    }
)


class ProducerResetError(Exception):
    """A step failed with an unknown outcome: close the producer and begin again at what is committed."""


class MessageRefusedError(ProducerResetError):
    """Kafka refuses a message of the transaction, and would again: its size, or what it holds."""


class TopicRefusedError(ProducerResetError):
    """Kafka refuses the topic until somebody changes something: an ACL is missing, or the topic does not exist."""


class FencedError(Exception):
    """Another relay has taken over: this one must end."""


def kafka_fault(doing: str, error: KafkaError, *, writes: str | None = None) -> ProducerResetError | FencedError:
    """Classify a Kafka error; `doing` names the interrupted step, and `writes` the topic that it writes to."""
    error = with_acl(error, Operation.WRITE, writes)
    if error.code() in _FENCED:
        return FencedError(f"another relay took over while {doing}")
    if error.code() in _MESSAGE_REFUSED:
        return MessageRefusedError(f"Kafka refused a message while {doing}: {error.str()}")
    if error.code() in _TOPIC_REFUSED:
        return TopicRefusedError(f"Kafka refused the topic while {doing}: {error.str()}")
    return ProducerResetError(f"Kafka failed while {doing}: {error.str()}")


@contextmanager
def kafka_faults(doing: str, *, writes: str | None = None) -> Iterator[None]:
    """Translate librdkafka's errors into ours, as `kafka_fault`.

    Raises:
        ProducerResetError, MessageRefusedError, TopicRefusedError, FencedError.
    """
    try:
        yield
    except KafkaException as error:
        raise kafka_fault(doing, error.args[0], writes=writes) from None
    except BufferError:
        raise ProducerResetError(f"librdkafka's queue was full while {doing}") from None
