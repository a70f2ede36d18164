"""Boxes of a sequence's detections that show the same thing, found by their overlap.

The greedy pass is the one of the annotation API's server, so that what is computed here is what it would say: the
first box opens a cluster, one pass over the rest joins what overlaps a member, and a box that was passed over is not
looked at again after the cluster grew. Its result depends on the order of the boxes; that of union-find does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from headrace.batch.platform.boxes import Box

_IOU_INSTEAD_OF_ZERO = 0.3  # what a server of the first generation takes 0 for


class Method(StrEnum):
    """How clusters are found."""

    GREEDY = "greedy"
    UNION_FIND = "union-find"


class Generation(StrEnum):
    """Which of the two generations of APIs answered; they compare and join boxes in their own way."""

    FIRST = "first"  # a detection has `bboxes`
    SECOND = "second"  # a detection has `bbox` and `others_bboxes`


@dataclass(frozen=True, slots=True)
class ClusteredBox:
    """A box, and whose it is."""

    detection_id: int
    box: Box


@dataclass(frozen=True, slots=True)
class Rule:
    """What makes a cluster; thresholds are 0 to 1."""

    confidence_threshold: float = 0.0
    iou_threshold: float = 0.3
    min_cluster_size: int = 1
    method: Method = Method.GREEDY


Cluster = tuple[ClusteredBox, ...]


def iou(one: Box, other: Box) -> float:
    """Return the share of two boxes' common area in the area that they cover."""
    width = min(one.x2, other.x2) - max(one.x1, other.x1)
    height = min(one.y2, other.y2) - max(one.y1, other.y1)
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / (_area(one) + _area(other) - common)


def cluster(placed: Sequence[ClusteredBox], rule: Rule, generation: Generation) -> tuple[Cluster, ...]:
    """Return the clusters of boxes that are ordered by when their detections were recorded."""
    rest = [one for one in placed if rule.confidence_threshold == 0 or one.box.confidence >= rule.confidence_threshold]
    find = _greedy if rule.method is Method.GREEDY else _union_find
    found = find(rest, rule.iou_threshold, generation)
    if generation is Generation.SECOND:  # there a detection is once in a cluster
        found = [_joined(one) for one in found]
    return tuple(tuple(one) for one in found if len(one) >= rule.min_cluster_size)


def _overlap(one: ClusteredBox, other: ClusteredBox, threshold: float, generation: Generation) -> bool:
    share = iou(one.box, other.box)
    if generation is Generation.FIRST:
        return share >= (threshold or _IOU_INSTEAD_OF_ZERO)
    return share > threshold


def _greedy(placed: list[ClusteredBox], threshold: float, generation: Generation) -> list[list[ClusteredBox]]:
    rest, found = list(placed), []
    while rest:
        members, left = [rest[0]], list[ClusteredBox]()
        for one in rest[1:]:
            near = any(_overlap(one, member, threshold, generation) for member in members)
            (members if near else left).append(one)
        found.append(members)
        rest = left
    return found


def _union_find(placed: list[ClusteredBox], threshold: float, generation: Generation) -> list[list[ClusteredBox]]:
    parent = list(range(len(placed)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, one in enumerate(placed):
        for before in range(index):
            if _overlap(one, placed[before], threshold, generation):
                low, high = sorted((root(index), root(before)))
                parent[high] = low
    groups: dict[int, list[ClusteredBox]] = {}
    for index, one in enumerate(placed):
        groups.setdefault(root(index), []).append(one)
    return list(groups.values())


def _joined(members: list[ClusteredBox]) -> list[ClusteredBox]:
    """Replace the boxes that a cluster has of one detection by the box around them."""
    around: dict[int, Box] = {}
    for one in members:
        known = around.get(one.detection_id)
        around[one.detection_id] = one.box if known is None else _around(known, one.box)
    return [ClusteredBox(detection_id, box) for detection_id, box in around.items()]


def _around(one: Box, other: Box) -> Box:
    return Box(
        min(one.x1, other.x1),
        min(one.y1, other.y1),
        max(one.x2, other.x2),
        max(one.y2, other.y2),
        max(one.confidence, other.confidence),
    )


def _area(box: Box) -> float:
    return (box.x2 - box.x1) * (box.y2 - box.y1)
