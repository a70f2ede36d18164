"""The clusters that `sites.toml` names: reading the file, settings for each, and what their topics are like."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import KafkaError, NewPartitions, NewTopic
from pydantic import SecretStr

from headrace.runtime.acl import Operation, with_acl
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.kafka import kafka_failed
from headrace.runtime.settings import Settings
from headrace.schemas.topics import PartitionKey
from headrace.sites.plan import MirroredTopic
from headrace.sites.topology import SecretReference, Site, Topology, parse

_REQUEST_S = 10.0


def read_topology(path: Path) -> Topology:
    """Return what the file says.

    Raises:
        HeadraceError: it cannot be read, or is invalid.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise HeadraceError(
            "sites_unreadable",
            f"the file of sites cannot be read: {reason}",
            where=str(path),
            hint="docs/sites.md has an example; name another file with --sites or HEADRACE_SITES_FILE",
            exit_code=Exit.USAGE,
        ) from None
    return parse(text, name=str(path))


def secret_of(reference: SecretReference, *, whose: str) -> str:
    """Return a secret.

    Raises:
        HeadraceError: the variable is not set, or the file cannot be read.
    """
    if reference.env:
        value, why = os.environ.get(reference.env, ""), f"the variable {reference.env} is not set"
    else:
        try:
            value, why = Path(reference.file).read_text("utf-8").strip(), f"the file {reference.file} is empty"
        except (OSError, UnicodeDecodeError) as error:
            value, why = "", f"the file {reference.file} cannot be read: {type(error).__name__}"
    if not value:
        raise HeadraceError("secret_missing", f"the password of {whose} is missing: {why}", exit_code=Exit.USAGE)
    return value


def settings_of(settings: Settings, site: Site, name: str) -> Settings:
    """Return the settings that reach the Kafka of a site.

    Raises:
        HeadraceError: its password is missing.
    """
    password = secret_of(site.password, whose=name) if site.password else ""
    return settings.model_copy(
        update={
            "kafka_bootstrap": site.bootstrap,
            "kafka_security": site.security,
            "kafka_sasl_mechanism": site.sasl_mechanism,
            "kafka_username": site.username,
            "kafka_password": SecretStr(password),
            "kafka_ca_file": site.ca_file,
            "kafka_cert_file": site.cert_file,
            "kafka_key_file": site.key_file,
            "kafka_replicas": site.replicas,
        }
    )


def partition_counts(settings: Settings, admin: AdminClient, names: Sequence[str]) -> dict[str, int]:
    """Return the number of partitions of each topic that exists.

    Raises:
        HeadraceError: Kafka does not answer.
    """
    try:
        topics = admin.list_topics(timeout=_REQUEST_S).topics
    except KafkaException as error:
        raise kafka_failed(settings, error.args[0]) from None
    return {name: len(topics[name].partitions) for name in names if name in topics and not topics[name].error}


def retentions_s(admin: AdminClient, names: Sequence[str]) -> dict[str, float]:
    """Return the retention of each topic in seconds, leaving out those that are kept for ever or do not tell."""
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    retentions = {}
    for resource, answer in admin.describe_configs(resources, request_timeout=_REQUEST_S).items():
        try:
            retention_ms = int(answer.result(_REQUEST_S)["retention.ms"].value)
        except (KafkaException, FutureTimeout):
            continue
        if retention_ms > 0:
            retentions[resource.name] = retention_ms / 1000
    return retentions


def offset_ranges(admin: AdminClient, keys: Sequence[PartitionKey]) -> dict[PartitionKey, tuple[int, int]]:
    """Return the first offset of each partition and the last stable one, asked for all of them at once.

    Raises:
        KafkaException: Kafka does not answer.
    """
    firsts = _offsets(admin, keys, OffsetSpec.earliest())  # type: ignore[no-untyped-call]
    ends = _offsets(admin, keys, OffsetSpec.latest())  # type: ignore[no-untyped-call]
    return {key: (firsts[key], ends[key]) for key in keys}


def _offsets(admin: AdminClient, keys: Sequence[PartitionKey], spec: OffsetSpec) -> dict[PartitionKey, int]:
    if not keys:
        return {}
    asked = {TopicPartition(*key): spec for key in keys}
    answers = admin.list_offsets(asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_REQUEST_S)
    try:
        return {
            (partition.topic, partition.partition): answer.result(_REQUEST_S).offset
            for partition, answer in answers.items()
        }
    except FutureTimeout:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001


def ensure_mirrored(settings: Settings, admin: AdminClient, topics: Sequence[MirroredTopic]) -> list[str]:
    """Create mirrored topics and partitions that are missing, and return the names of new topics; may be repeated.

    Raises:
        HeadraceError: Kafka refuses, or does not answer.
    """
    existing = partition_counts(settings, admin, [topic.name for topic in topics])
    new, grown = [], []
    for topic in topics:
        if topic.partitions is None:
            continue
        if topic.name not in existing:
            new.append(NewTopic(topic.name, topic.partitions, topic.replicas, config=dict(topic.config)))
        elif existing[topic.name] < topic.partitions:
            grown.append(NewPartitions(topic.name, topic.partitions))
    if new:
        _wait(settings, admin.create_topics(new, request_timeout=_REQUEST_S), KafkaError.TOPIC_ALREADY_EXISTS)
    if grown:
        _wait(settings, admin.create_partitions(grown, request_timeout=_REQUEST_S), KafkaError.INVALID_PARTITIONS)
    return [topic.topic for topic in new]


def _wait(settings: Settings, answers: Mapping[str, "Future[None]"], expected: int) -> None:
    for name, answer in answers.items():
        try:
            answer.result(_REQUEST_S * 3)
        except FutureTimeout:
            raise kafka_failed(settings, KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001
        except KafkaException as error:
            if error.args[0].code() != expected:
                raise kafka_failed(settings, with_acl(error.args[0], Operation.CREATE, name)) from None
