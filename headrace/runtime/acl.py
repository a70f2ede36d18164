"""What Kafka refuses because an ACL is missing, in one sentence that names the operation and the topic."""

from enum import StrEnum

from confluent_kafka import KafkaError

from headrace.runtime.errors import HeadraceError

REFUSED = frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED})
"""The errors of Kafka that mean that an ACL of a topic is missing; creating one may need an ACL of the cluster."""


class Operation(StrEnum):
    """An operation on a topic, as Kafka's ACLs call it."""

    READ = "Read"
    WRITE = "Write"
    DESCRIBE = "Describe"
    CREATE = "Create"


def missing_acl(access: Operation, topic: str) -> str:
    """Return the sentence."""
    return f"the ACL {access} on the topic {topic} is missing"


def with_acl(error: KafkaError, access: Operation, topic: str | None) -> KafkaError:
    """Return an error with the sentence as its text, if it says that an ACL is missing; any other one unchanged."""
    if error.code() not in REFUSED or not topic:
        return error
    return KafkaError(error.code(), missing_acl(access, topic))


def acl_error(sentence: str, where: str) -> HeadraceError:
    """Return the error of a missing ACL for whoever started the process or the command."""
    return HeadraceError(
        "acl_missing",
        sentence,
        where=where,
        hint="allow it to the user of HEADRACE_KAFKA_USERNAME with `kafka-acls`; docs/security.md lists what is needed",
    )
