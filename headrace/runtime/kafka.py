"""Configuration of librdkafka clients, waiting for the broker, and the topics: creating them, and what ACLs allow."""

import asyncio
import time
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from logging import NullHandler, getLogger
from types import MappingProxyType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._metadata import TopicMetadata
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.admin._topic import TopicDescription
from confluent_kafka.cimpl import NewTopic

from headrace.runtime.acl import REFUSED, Operation, acl_error, missing_acl, with_acl
from headrace.runtime.errors import Exit, HeadraceError, unreachable
from headrace.runtime.settings import Settings
from headrace.runtime.wait_for_service import wait_for
from headrace.schemas.topics import INSTALLATION_TOPIC, TOPICS, Topic

_REQUEST_S = 10
_PROBE_S = 2
_HEARTBEAT_S_MAX = 3.0
_LEADER_S_MAX = 30.0
_LEADER_POLL_S = 0.05

# These errors mean that the broker is unreachable, not that it refused the request.
_UNREACHABLE = frozenset(
    {
        KafkaError._TRANSPORT,  # noqa: SLF001
        KafkaError._ALL_BROKERS_DOWN,  # noqa: SLF001
        KafkaError._TIMED_OUT,  # noqa: SLF001
        KafkaError._RESOLVE,  # noqa: SLF001
        KafkaError.REQUEST_TIMED_OUT,
    }
)

_LOGIN_HINT = (
    "check HEADRACE_KAFKA_SECURITY, HEADRACE_KAFKA_SASL_MECHANISM and its HEADRACE_KAFKA_USERNAME and "
    "HEADRACE_KAFKA_PASSWORD, or HEADRACE_KAFKA_OAUTH_*"
)
_REFUSALS = {
    KafkaError._SSL: "check HEADRACE_KAFKA_CA_FILE, HEADRACE_KAFKA_CERT_FILE, HEADRACE_KAFKA_KEY_FILE and "  # noqa: SLF001
    "HEADRACE_KAFKA_KEY_PASSWORD",
    KafkaError._AUTHENTICATION: _LOGIN_HINT,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOGIN_HINT,
    KafkaError.UNSUPPORTED_SASL_MECHANISM: _LOGIN_HINT,
}

# A partition without a leader, or of which a broker does not know yet, as right after a topic was created.
_LEADER_MISSING = frozenset(
    {
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
PASSING = _UNREACHABLE | _LEADER_MISSING
"""The errors after which the same question about a partition may be answered soon."""


# Without a logger librdkafka writes to standard error. With one it keeps its lines until the client is polled.
_log = getLogger("librdkafka")
_discarded = getLogger("librdkafka.discarded")
_discarded.addHandler(NullHandler())
_discarded.propagate = False
UNLOGGED: Mapping[str, Any] = MappingProxyType({"log_level": 0, "logger": _discarded})
"""The part of a client's configuration that discards librdkafka's log."""
_LOGGED: Mapping[str, Any] = MappingProxyType({"log_level": 3, "logger": _log})  # errors only


def client_config(settings: Settings, *, is_logged: bool = False, **extra: Any) -> dict[str, Any]:
    """Return the configuration of a librdkafka client; `extra` has underscores where librdkafka has dots.

    With `is_logged`, for a client that is polled all the time, librdkafka's errors go to the log of the process. Those
    of other clients are discarded: what they are asked raises the same errors.
    """
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap,
        "security.protocol": settings.kafka_security,
        "socket.keepalive.enable": True,
        **(_LOGGED if is_logged else UNLOGGED),
    }
    if settings.kafka_security.startswith("SASL"):
        config |= {"sasl.mechanism": settings.kafka_sasl_mechanism, **_login(settings)}
    if settings.kafka_security.endswith("SSL"):
        config |= _set(
            {
                "ssl.ca.location": settings.kafka_ca_file,
                "ssl.certificate.location": settings.kafka_cert_file,
                "ssl.key.location": settings.kafka_key_file,
                "ssl.key.password": settings.kafka_key_password.get_secret_value(),
            }
        )
    return config | {name.replace("_", "."): value for name, value in extra.items()}


def _login(settings: Settings) -> dict[str, str]:
    if settings.kafka_sasl_mechanism != "OAUTHBEARER":
        return {
            "sasl.username": settings.kafka_username,
            "sasl.password": settings.kafka_password.get_secret_value(),
        }
    return {
        "sasl.oauthbearer.method": "oidc",
        "sasl.oauthbearer.token.endpoint.url": settings.kafka_oauth_token_url,
        "sasl.oauthbearer.client.id": settings.kafka_oauth_client_id,
        **_set(
            {
                "sasl.oauthbearer.client.secret": settings.kafka_oauth_client_secret.get_secret_value(),
                "sasl.oauthbearer.scope": settings.kafka_oauth_scope,
                "https.ca.location": settings.kafka_oauth_ca_file,
            }
        ),
    }


def _set(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}


def heartbeat_s(session_s: float) -> float:
    """Return the heartbeat interval of a group member, so that two lost heartbeats do not end its session."""
    return min(_HEARTBEAT_S_MAX, session_s / 3)


def session_config(settings: Settings) -> dict[str, int]:
    """Return what `client_config` takes for a group member whose session lasts as the settings say."""
    session_s = settings.kafka_session_s
    return {"session_timeout_ms": int(session_s * 1000), "heartbeat_interval_ms": int(heartbeat_s(session_s) * 1000)}


async def wait_for_kafka(settings: Settings, *, stop: asyncio.Event | None = None) -> AdminClient:
    """Return an admin client once Kafka answers.

    Raises:
        HeadraceError: Kafka did not answer within `start_wait_s_max` seconds.
        StoppedError: `stop` was set meanwhile.
    """
    return await wait_for(
        "kafka",
        lambda: asyncio.to_thread(reach_kafka, settings),
        wait_s_max=settings.start_wait_s_max,
        stop=stop,
    )


def reach_kafka(settings: Settings) -> AdminClient:
    """Check once that Kafka answers, and return an admin client.

    Raises:
        HeadraceError: Kafka does not answer within two seconds, or it or this process refuses the connection.
    """
    faults: list[KafkaError] = []
    config = client_config(settings) | {"error_cb": faults.append}
    try:
        admin = AdminClient(config)
    except KafkaException as error:
        raise kafka_refused(settings.kafka_bootstrap, error.args[0]) from None
    try:
        admin.list_topics(timeout=_PROBE_S)
    except KafkaException as error:
        admin.poll(0)
        del admin  # closing it blocks, so do it in this thread
        last = next((fault for fault in reversed(faults) if fault.code() != KafkaError._ALL_BROKERS_DOWN), None)  # noqa: SLF001
        if last is not None and is_refusal(last):
            raise kafka_refused(settings.kafka_bootstrap, last) from None
        raise kafka_failed(settings, error.args[0]) from None
    return admin


def is_refusal(error: KafkaError) -> bool:
    """Return whether an error is of TLS or authentication, which waiting does not mend."""
    # A broker that refuses a client's certificate says so after the handshake, in an alert of TLS.
    return error.code() in _REFUSALS or "SSL alert number" in error.str()


def kafka_refused(where: str, error: KafkaError) -> HeadraceError:
    """Return the error for a connection that fails because of TLS, authentication or the client's configuration."""
    reason = error.str().split("\n", 1)[0].partition(" (after ")[0]
    hint = _REFUSALS.get(error.code(), _REFUSALS[KafkaError._SSL])  # noqa: SLF001
    return HeadraceError("kafka_refused", f"the connection to Kafka was refused: {reason}", where=where, hint=hint)


def kafka_failed(settings: Settings, error: KafkaError) -> HeadraceError:
    """Return the error for a broker that cannot be reached, or that refuses for want of an ACL."""
    if error.code() in REFUSED:
        return acl_error(error.str(), settings.kafka_bootstrap)
    return unreachable(
        "kafka", settings.kafka_bootstrap, error.str(), "start it, or set HEADRACE_KAFKA_BOOTSTRAP to its address"
    )


def topic_ids(admin: AdminClient, names: Iterable[str]) -> dict[str, str]:
    """Return the id of each topic, leaving out those that do not exist; a topic that is made anew has another one.

    Raises:
        KafkaException: Kafka does not answer, or refuses to.
    """
    ids = {}
    for name, description in admin.describe_topics(TopicCollection(list(names)), request_timeout=_REQUEST_S).items():
        try:
            ids[name] = str(description.result().topic_id)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
    return ids


class DeliveryErrors:
    """Keeps the first error of the messages that a producer could not deliver; `note` is their `on_delivery`."""

    def __init__(self) -> None:
        self.first: KafkaError | None = None

    def note(self, error: KafkaError | None, message: Message) -> None:
        """Take one delivery report."""
        if self.first is None and error is not None:
            self.first = with_acl(error, Operation.WRITE, message.topic())


def ensure_topics(settings: Settings, admin: AdminClient) -> list[str]:
    """Create the missing topics, wait until they can be used, and return their names; may be repeated.

    Raises:
        HeadraceError: Kafka refused to create a topic, or does not answer.
    """
    existing = _existing_topics(settings, admin)
    missing = [_event_topic(settings, topic) for name, topic in TOPICS.items() if name not in existing]
    if INSTALLATION_TOPIC not in existing:
        missing.append(_new(settings, INSTALLATION_TOPIC, 1, {"cleanup.policy": "compact"}))
    if not missing:
        return []
    for name, creation in admin.create_topics(missing).items():
        _wait_until_created(settings, name, creation)
    created = [topic.topic for topic in missing]
    _wait_for_leaders(settings, admin, created)
    return created


def require_topics(settings: Settings, admin: AdminClient, needed: Mapping[str, Operation]) -> None:
    """Check that topics exist, and that their ACLs allow what is needed of each.

    Raises:
        HeadraceError: a topic or an ACL is missing, or Kafka does not answer.
    """
    existing = _existing_topics(settings, admin)
    if missing := [name for name in needed if name not in existing]:
        raise _topics_missing(settings, missing)
    described = admin.describe_topics(
        TopicCollection([*needed]), include_authorized_operations=True, request_timeout=_REQUEST_S
    )
    for name, access in needed.items():
        if not _is_allowed(settings, name, access, described[name]):
            raise acl_error(missing_acl(access, name), settings.kafka_bootstrap)


def require_any_topic(settings: Settings, admin: AdminClient, names: Collection[str]) -> None:
    """Check that at least one of some topics exists.

    Raises:
        HeadraceError: none does, or Kafka does not answer.
    """
    existing = _existing_topics(settings, admin)
    if not any(name in existing for name in names):
        raise _topics_missing(settings, names)


def message_bytes_max(admin: AdminClient, topic: Topic) -> int:
    """Return the largest message that a topic takes: its `max.message.bytes`, at most what it is declared with.

    The latter also if Kafka does not tell: the ACL `DescribeConfigs` is missing, or it does not answer.
    """
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    try:
        answer = admin.describe_configs([resource], request_timeout=_REQUEST_S)[resource]
        return min(int(answer.result(_REQUEST_S)["max.message.bytes"].value), topic.message_bytes_max)
    except (KafkaException, FutureTimeout):
        return topic.message_bytes_max


def _topics_missing(settings: Settings, names: Iterable[str]) -> HeadraceError:
    return HeadraceError(
        "topics_missing",
        f"there is no topic {', '.join(sorted(names))}, or its ACL {Operation.DESCRIBE} is missing",
        where=settings.kafka_bootstrap,
        hint="run `headrace init` once, which creates topics, tables and bucket; docs/security.md lists the ACLs",
        exit_code=Exit.UNREACHABLE,
    )


def _is_allowed(settings: Settings, name: str, access: Operation, described: "Future[TopicDescription]") -> bool:
    """Return whether the ACLs allow an operation on a topic; Kafka may not tell, and then it counts as allowed."""
    try:
        operations = described.result(_REQUEST_S).authorized_operations
    except FutureTimeout:
        raise kafka_failed(settings, KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001
    except KafkaException as error:
        raise kafka_failed(settings, with_acl(error.args[0], Operation.DESCRIBE, name)) from None
    return not operations or AclOperation[access.name] in operations


def _existing_topics(settings: Settings, admin: AdminClient) -> Mapping[str, TopicMetadata]:
    try:
        return admin.list_topics(timeout=_REQUEST_S).topics
    except KafkaException as error:
        raise kafka_failed(settings, error.args[0]) from None


def _wait_until_created(settings: Settings, name: str, creation: "Future[None]") -> None:
    try:
        creation.result(_REQUEST_S * 3)
    except FutureTimeout:
        raise kafka_failed(settings, KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001
    except KafkaException as error:
        fault: KafkaError = error.args[0]
        if fault.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return
        if fault.retriable() or fault.code() in _UNREACHABLE | REFUSED:
            raise kafka_failed(settings, with_acl(fault, Operation.CREATE, name)) from None
        raise HeadraceError(
            "topic_refused",
            f"Kafka would not create the topic {name}: {fault.str()}",
            where=settings.kafka_bootstrap,
            hint="HEADRACE_KAFKA_REPLICAS must not exceed the number of brokers",
        ) from None


def _wait_for_leaders(settings: Settings, admin: AdminClient, names: Collection[str]) -> None:
    deadline_s = time.monotonic() + _LEADER_S_MAX
    while True:
        topics = _existing_topics(settings, admin)
        waiting = [name for name in names if name not in topics or not _is_led(topics[name])]
        if not waiting:
            return
        if time.monotonic() > deadline_s:
            if waiting[0] not in topics:
                raise acl_error(missing_acl(Operation.DESCRIBE, waiting[0]), settings.kafka_bootstrap)
            reason = f"{waiting[0]} has partitions without a leader"
            raise kafka_failed(settings, KafkaError(KafkaError.LEADER_NOT_AVAILABLE, reason))
        time.sleep(_LEADER_POLL_S)


def _is_led(topic: TopicMetadata) -> bool:
    return bool(topic.partitions) and all(partition.leader >= 0 for partition in topic.partitions.values())


def _event_topic(settings: Settings, topic: Topic) -> NewTopic:
    config = {
        "max.message.bytes": str(topic.message_bytes_max),
        "retention.ms": str(topic.retention_s * 1000),
        # The retention of a message must not depend on the clock of its source.
        "message.timestamp.type": "LogAppendTime",
    }
    return _new(settings, topic.name, settings.kafka_partitions, config)


def _new(settings: Settings, name: str, partitions: int, config: dict[str, str]) -> NewTopic:
    replicas = settings.kafka_replicas
    replicated = {"min.insync.replicas": "2" if replicas >= 3 else "1"}
    return NewTopic(name, num_partitions=partitions, replication_factor=replicas, config=config | replicated)
