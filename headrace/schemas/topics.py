"""The topics, declared once for all code that creates, reads, writes or documents them."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from headrace.schemas import events
from headrace.schemas.events import Kind
from headrace.schemas.limits import ENVELOPE_BYTES_MAX, INLINE_BYTES_MAX, KIB, LDO_BODY_BYTES_MAX, MIB

DAY_S = 86_400

PartitionKey: TypeAlias = tuple[str, int]
"""A topic's name and the number of a partition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One topic. `message_bytes_max` is Kafka's `max.message.bytes`; `key` says what the message key holds."""

    name: str
    event: type
    purpose: str
    message_bytes_max: int
    retention_s: int
    key: str = "source_id"
    partitions: int = 4


# A body at its limit must fit with the largest envelope, and a slightly larger one too, so that it reaches the agent
# and becomes a dead letter.
_LARGE_BYTES_MAX = INLINE_BYTES_MAX + ENVELOPE_BYTES_MAX + MIB
INPUT_RETENTION_S = 7 * DAY_S
_RESULT_RETENTION_S = 30 * DAY_S

_INPUTS = {
    Kind.CID: Topic(
        name="edge.cids.v1",
        event=events.Cid,
        purpose="Component scans, published by devices and cameras.",
        message_bytes_max=256 * KIB,
        retention_s=INPUT_RETENTION_S,
    ),
    Kind.FRAME: Topic(
        name="edge.frames.v1",
        event=events.Frame,
        purpose="Still images, published by cameras.",
        message_bytes_max=_LARGE_BYTES_MAX,
        retention_s=INPUT_RETENTION_S,
    ),
    Kind.CLIP: Topic(
        name="edge.clips.v1",
        event=events.Clip,
        purpose="Short videos around an event, published by cameras.",
        message_bytes_max=_LARGE_BYTES_MAX,
        retention_s=INPUT_RETENTION_S,
    ),
    Kind.LDO: Topic(
        name="edge.ldos.v1",
        event=events.Ldo,
        purpose="Labelled data objects, published by devices.",
        message_bytes_max=LDO_BODY_BYTES_MAX + 2 * ENVELOPE_BYTES_MAX,
        retention_s=INPUT_RETENTION_S,
    ),
}
_INGESTED = {
    kind: Topic(
        name=f"ingested.{kind}s.v1",
        event=events.Ingested,
        retention_s=_RESULT_RETENTION_S,
        purpose=f"Announcements: one for each {kind} whose bytes and record are durable.",
        message_bytes_max=256 * KIB,
    )
    for kind in Kind
}
_KIND_OF = {topic.name: kind for kind, topic in _INPUTS.items()}
# As MirrorMaker's DefaultReplicationPolicy names them: the alias of the cluster that they come from, which has no dot.
_MIRRORED = re.compile(r"(?P<site>[A-Za-z0-9_-]+)\.(?P<topic>(?:edge|ingested)\.[a-z]+\.v[0-9]+)")
DEAD_LETTERS = Topic(
    name="deadletters.v1",
    event=events.DeadLetter,
    key="source_id, or the topic where it is unknown",
    purpose="Messages that can never be ingested, with their bytes, origin and reason.",
    # A whole rejected message with its key, its headers and the reason.
    message_bytes_max=_LARGE_BYTES_MAX + 2 * MIB,
    retention_s=_RESULT_RETENTION_S,
)
PREPROCESSED = Topic(
    name="preprocessed.frames.v1",
    event=events.PreprocessedFrame,
    purpose="Measurements of preprocessing for each frame.",
    message_bytes_max=64 * KIB,
    retention_s=_RESULT_RETENTION_S,
)
PERCEIVED = Topic(
    name="perceived.frames.v1",
    event=events.PerceivedFrame,
    purpose="Changes in each frame since the previous frame of its source.",
    message_bytes_max=128 * KIB,
    retention_s=_RESULT_RETENTION_S,
)
CAPTURE_REQUESTS = Topic(
    name="capture.requests.v1",
    event=events.CaptureRequest,
    purpose="Requests to the capture workers to capture a camera's stream.",
    message_bytes_max=64 * KIB,
    retention_s=INPUT_RETENTION_S,
)

SITE_NAME = r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$"
"""The name of a site whose topics are mirrored: it stands before a dot in the name of the copy, so it has none."""
WORKER_GROUPS = {
    "headrace-small": frozenset({Kind.CID, Kind.LDO}),
    "headrace-large": frozenset({Kind.FRAME, Kind.CLIP}),
}
"""The workers' consumer groups. Kinds of one group share a process, in which a full buffer stops all of them."""

INSTALLATION_TOPIC = "headrace.installation.v1"
"""Compacted: its last message is the installation that this Kafka belongs to. It has no event and no consumer."""

TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (*_INPUTS.values(), *_INGESTED.values(), DEAD_LETTERS, PREPROCESSED, PERCEIVED, CAPTURE_REQUESTS)
}


def input_topic(kind: Kind) -> Topic:
    """Return the topic on which sources publish this kind."""
    return _INPUTS[kind]


def kind_of_topic(topic: str) -> Kind | None:
    """Return the kind of an input topic, a site's mirrored one included; None for other topics."""
    return _KIND_OF.get(_own_name(topic))


@lru_cache(maxsize=1024)  # asked several times for each message
def site_of_topic(topic: str) -> str | None:
    """Return the site that a mirrored topic comes from; None for a topic of this cluster."""
    mirrored = _MIRRORED.fullmatch(topic)
    return mirrored["site"] if mirrored is not None else None


def input_topics(kinds: Iterable[Kind], existing: Iterable[str]) -> dict[Kind, list[str]]:
    """Return the input topics of each kind: this cluster's own, and after it those of `existing` that are mirrored."""
    names = sorted(name for name in existing if site_of_topic(name) is not None)
    return {
        kind: [_INPUTS[kind].name, *(name for name in names if kind_of_topic(name) is kind)] for kind in sorted(kinds)
    }


def _own_name(topic: str) -> str:
    mirrored = _MIRRORED.fullmatch(topic)
    return mirrored["topic"] if mirrored is not None else topic


def ingested_topic(kind: Kind) -> Topic:
    """Return the topic that announces this kind."""
    return _INGESTED[kind]


def is_transactional(topic: str) -> bool:
    """Return whether the service writes a topic in transactions, with or without the site prefix of MirrorMaker."""
    written = (*_INGESTED.values(), DEAD_LETTERS, PREPROCESSED, PERCEIVED)
    return any(topic == known.name or topic.endswith(f".{known.name}") for known in written)


def wait_days_max(spool_days_max: float) -> float:
    """Return how many days a message may wait before it is ingested: in a device's spool, then in its topic."""
    return spool_days_max + INPUT_RETENTION_S / DAY_S
