"""What a mirror needs at both ends of its links: topics with their settings, and ACLs. Pure.

Topics are made before MirrorMaker starts, because it would copy neither `min.insync.replicas` nor
`message.timestamp.type`. With `LogAppendTime` retention counts from the arrival at the target, so that what waited for
a long cut to end is not deleted on arrival.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from headrace.schemas.topics import Topic
from headrace.sites.mm2 import MEMORY_TOPIC, offsets_topic
from headrace.sites.topology import Flow, Site, Topology

HOUR_S = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredTopic:
    """A topic of the target; `partitions` is None while the source does not tell."""

    link: str
    name: str
    source_topic: str
    partitions: int | None
    replicas: int
    config: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Acl:
    """What a principal may do at a site; `is_prefix`: the name is the beginning of names."""

    site: str
    principal: str
    resource: str
    name: str
    operation: str
    is_prefix: bool = False


def mirrored_topics(flow: Flow, target: Site, partitions: Mapping[str, int]) -> tuple[MirroredTopic, ...]:
    """Return the topics at the target of a flow; `partitions` are those of the source's topics."""
    return tuple(
        MirroredTopic(
            link=flow.name,
            name=flow.mirrored(topic.name),
            source_topic=topic.name,
            partitions=partitions.get(topic.name),
            replicas=target.replicas,
            config=_config(topic, flow, target),
        )
        for topic in flow.topics
    )


def _config(topic: Topic, flow: Flow, target: Site) -> dict[str, str]:
    retention_s = max(topic.retention_s, int(flow.cut_hours_max * HOUR_S))
    return {
        "max.message.bytes": str(topic.message_bytes_max),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "2" if target.replicas >= 3 else "1",
        "retention.ms": str(retention_s * 1000),
    }


def acls(topology: Topology, target: str) -> tuple[Acl, ...]:
    """Return the ACLs of each principal: a link reads its topics at the source, and writes its own at the target."""
    rules: list[Acl] = []
    for flow in topology.flows_to(target):
        rules += _reading(flow, topology.sites[flow.source])
        rules += _writing(flow)
    if topology.sites[target].username:
        rules += _working(topology, target)
    return tuple(rules)


def _reading(flow: Flow, source: Site) -> Iterator[Acl]:
    """Yield what a link needs at its source: to read, and nothing else."""
    if not source.username:
        return
    for topic in flow.topics:
        for operation in ("Read", "Describe", "DescribeConfigs"):
            yield _acl(flow.source, source.username, ("Topic", topic.name), operation)


def _writing(flow: Flow) -> Iterator[Acl]:
    """Yield what a link with a login of its own needs at the target: its topics, its offsets and its transactions."""
    if flow.login is None:
        return
    user = flow.login.username
    for topic in flow.topics:
        for operation in ("Write", "Describe"):
            yield _acl(flow.target, user, ("Topic", flow.mirrored(topic.name)), operation)
    for operation in ("Read", "Write", "Describe", "DescribeConfigs"):
        yield _acl(flow.target, user, ("Topic", offsets_topic(flow.source)), operation)
    for operation in ("Write", "Describe"):
        yield _acl(flow.target, user, ("TransactionalId", f"{_group(flow)}-"), operation, is_prefix=True)


def _working(topology: Topology, target: str) -> Iterator[Acl]:
    """Yield what the mirror itself needs at the target: to make topics, and to keep its own in order."""
    user = topology.sites[target].username
    yield _acl(target, user, ("Cluster", "kafka-cluster"), "Describe")
    for operation in ("Create", "Describe", "Read", "Write"):
        yield _acl(target, user, ("Topic", MEMORY_TOPIC), operation)
    for flow in topology.flows_to(target):
        # A link without a login of its own writes as the mirror.
        mirrored = ("Create", "Describe", "DescribeConfigs", "Alter", "Read")
        for operation in (*mirrored, "Write") if flow.login is None else mirrored:
            yield _acl(target, user, ("Topic", f"{flow.source}."), operation, is_prefix=True)
        for kind in ("offsets", "status", "configs"):
            for operation in ("Create", "Describe", "DescribeConfigs", "Read", "Write"):
                yield _acl(target, user, ("Topic", f"mm2-{kind}.{flow.source}.internal"), operation)
        for prefix in (f"{_group(flow)}-", f"connect-cluster-{_group(flow)}"):
            for operation in ("Write", "Describe"):
                yield _acl(target, user, ("TransactionalId", prefix), operation, is_prefix=True)
        yield _acl(target, user, ("Group", _group(flow)), "Read")


def _group(flow: Flow) -> str:
    """Return the group of MirrorMaker's workers, with which the names of their transactions begin."""
    return f"{flow.source}-mm2"


def _acl(site: str, user: str, on: tuple[str, str], operation: str, *, is_prefix: bool = False) -> Acl:
    principal = f"User:{user}"
    return Acl(site=site, principal=principal, resource=on[0], name=on[1], operation=operation, is_prefix=is_prefix)
