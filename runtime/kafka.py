"""Kafka clients other than Faust's: librdkafka's configuration, waiting for the broker, creating topics."""

import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from runtime.errors import Exit, HeadraceError, unreachable
from runtime.logs import Action, get_log
from runtime.settings import Settings
from schemas.topics import TOPICS, Topic

_REQUEST_S = 10
_PROBE_S = 2


def client_config(settings: Settings, **extra: Any) -> dict[str, Any]:
    """Return librdkafka's configuration; names in `extra` have underscores where librdkafka has dots."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security,
        "log_level": 3,  # errors; everything else shows in our own lines
        "socket.keepalive.enable": True,
    }
    if settings.kafka_security.startswith("SASL"):
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password.get_secret_value(),
        }
    if settings.kafka_ca_file:
        config["ssl.ca.location"] = settings.kafka_ca_file
    return config | {name.replace("_", "."): value for name, value in extra.items()}


def wait_for_kafka(settings: Settings) -> AdminClient:
    """Return an admin client once Kafka answers.

    Raises:
        HeadraceError: it did not within `start_wait_s_max` seconds.
    """
    admin = AdminClient(client_config(settings) | {"log_level": 0})  # the waiting is said in one line of ours
    deadline = time.monotonic() + settings.start_wait_s_max
    said = False
    while True:
        try:
            admin.list_topics(timeout=_PROBE_S)
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise kafka_unreachable(settings, error.args[0]) from None
            if not said:
                get_log().info(Action.WAITING, service="kafka", address=settings.kafka_bootstrap)
                said = True
            time.sleep(0.3)
        else:
            return admin


def kafka_unreachable(settings: Settings, error: KafkaError) -> HeadraceError:
    """Return the error for a broker that does not answer."""
    return unreachable(
        "kafka", settings.kafka_bootstrap, error.str(), "start it, or set HEADRACE_KAFKA_BOOTSTRAP to where it is"
    )


def ensure_topics(settings: Settings, admin: AdminClient) -> list[str]:
    """Create the topics that are not there yet; returns their names. May be repeated.

    Raises:
        HeadraceError: Kafka refused one.
    """
    there = admin.list_topics(timeout=_REQUEST_S).topics
    missing = [topic for name, topic in TOPICS.items() if name not in there]
    if not missing:
        return []
    for name, made in admin.create_topics([_new(topic, settings) for topic in missing]).items():
        try:
            made.result(_REQUEST_S * 3)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise HeadraceError(
                    "topic_refused",
                    f"Kafka would not create the topic {name}: {error.args[0].str()}",
                    where=settings.kafka_bootstrap,
                    hint="HEADRACE_KAFKA_REPLICAS must not exceed the number of brokers",
                ) from None
    return [topic.name for topic in missing]


def require_topics(settings: Settings, admin: AdminClient, names: Iterable[str]) -> None:
    """Check that topics are there.

    Raises:
        HeadraceError: one is missing.
    """
    there = admin.list_topics(timeout=_REQUEST_S).topics
    missing = sorted(name for name in names if name not in there)
    if missing:
        raise HeadraceError(
            "topics_missing",
            f"there is no topic {', '.join(missing)}",
            where=settings.kafka_bootstrap,
            hint="run `headrace init` once, which creates topics, tables and bucket",
            exit_code=Exit.UNREACHABLE,
        )


def _new(topic: Topic, settings: Settings) -> NewTopic:
    return NewTopic(
        topic.name,
        num_partitions=settings.kafka_partitions,
        replication_factor=settings.kafka_replicas,
        config={
            "max.message.bytes": str(topic.message_bytes_max),
            "retention.ms": str(topic.retention_s * 1000),
            "min.insync.replicas": "2" if settings.kafka_replicas >= 3 else "1",
            # A source's own clock must not decide how long a message is kept.
            "message.timestamp.type": "LogAppendTime",
        },
    )
