"""Bounding boxes: parsing the platform's text, and clustering boxes of a sequence that overlap. Pure.

The platform writes boxes as the text of a Python list of tuples, `[(0.1,0.1,0.9,0.9,0.5)]`. The text is untrusted, so
it is matched and never evaluated.

The greedy clustering is that of the annotation API's server and gives the same result: the first box opens a cluster,
one pass over the rest adds each box that overlaps a member, and a box that was skipped is not tried again after the
cluster has grown. Its result depends on the order of the boxes; that of union-find does not.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

TEXT_CHARACTERS_MAX = 4096  # the platform allows 5 boxes of 3 decimals, about 150 characters
BOXES_MAX = 32  # per text: the time to cluster grows with the square of the number of boxes

_IOU_DEFAULT = 0.3  # which a server of the first generation uses instead of 0
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_TUPLE = re.compile(r"\(([^()\[\]]*)\)")
_LIST = re.compile(r"\[\s*(?:\([^()\[\]]*\)\s*(?:,\s*\([^()\[\]]*\)\s*)*(?:,\s*)?)?\]")
_FIVE_NUMBERS = re.compile(
    rf"\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*(?:,\s*)?"
)


@dataclass(frozen=True, slots=True)
class Box:
    """A predicted box; corners are relative to the image's width and height, 0 to 1, as is the confidence."""

    x1: float
    y1: float
    x2: float
    y2: float
    confidence: float

    @property
    def xyxyn(self) -> list[float]:
        """The corners, in the annotation API's format."""
        return [self.x1, self.y1, self.x2, self.y2]


@dataclass(frozen=True, slots=True)
class ParsedBoxes:
    """The valid boxes of a text, in order, and how many were dropped."""

    boxes: tuple[Box, ...] = ()
    dropped: int = 0


class ClusterMethod(StrEnum):
    """How clusters are found."""

    GREEDY = "greedy"
    UNION_FIND = "union-find"


class Generation(StrEnum):
    """The generation of an API; the two compare and join boxes differently."""

    FIRST = "first"  # a detection has `bboxes`
    SECOND = "second"  # a detection has `bbox` and `others_bboxes`


@dataclass(frozen=True, slots=True)
class ClusteredBox:
    """A box and the detection that it belongs to."""

    detection_id: int
    box: Box


@dataclass(frozen=True, slots=True)
class ClusterRule:
    """The parameters of clustering; thresholds are 0 to 1."""

    confidence_threshold: float = 0.0
    iou_threshold: float = 0.3
    min_cluster_size: int = 1
    method: ClusterMethod = ClusterMethod.GREEDY


Cluster = tuple[ClusteredBox, ...]


def parse_boxes(text: str | None) -> ParsedBoxes:
    """Parse a list of boxes, or a single box.

    A box that the annotation API would refuse (corners outside 0 to 1 or in the wrong order, a confidence outside 0 to
    1, not exactly five numbers) is dropped and counted, and so are boxes after BOXES_MAX; a malformed text counts as
    one dropped box.
    """
    if text is None or not (stripped := text.strip()):
        return ParsedBoxes()
    if len(stripped) > TEXT_CHARACTERS_MAX or not (_LIST.fullmatch(stripped) or _TUPLE.fullmatch(stripped)):
        return ParsedBoxes(dropped=1)
    parsed = [_parse_box(inner) for inner in _TUPLE.findall(stripped)]
    boxes = tuple(box for box in parsed if box is not None)[:BOXES_MAX]
    return ParsedBoxes(boxes, len(parsed) - len(boxes))


def valid_box(x1: float, y1: float, x2: float, y2: float, confidence: float) -> Box | None:
    """Return the box if the annotation API accepts it; NaN fails every comparison."""
    if 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and 0 <= confidence <= 1:
        return Box(x1, y1, x2, y2, confidence)
    return None


def iou(box: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    width = min(box.x2, other.x2) - max(box.x1, other.x1)
    height = min(box.y2, other.y2) - max(box.y1, other.y1)
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    return intersection / (_area(box) + _area(other) - intersection)


def cluster(boxes: Sequence[ClusteredBox], rule: ClusterRule, generation: Generation) -> tuple[Cluster, ...]:
    """Return the clusters of boxes that are ordered by the time of their detections."""
    threshold = rule.confidence_threshold
    confident = [member for member in boxes if threshold == 0 or member.box.confidence >= threshold]
    find = _greedy if rule.method is ClusterMethod.GREEDY else _union_find
    clusters = find(confident, rule.iou_threshold, generation)
    if generation is Generation.SECOND:  # there a cluster has at most one box per detection
        clusters = [_merge_by_detection(members) for members in clusters]
    return tuple(tuple(members) for members in clusters if len(members) >= rule.min_cluster_size)


def _overlap(member: ClusteredBox, other: ClusteredBox, threshold: float, generation: Generation) -> bool:
    ratio = iou(member.box, other.box)
    if generation is Generation.FIRST:
        return ratio >= (threshold or _IOU_DEFAULT)
    return ratio > threshold


def _greedy(boxes: list[ClusteredBox], threshold: float, generation: Generation) -> list[list[ClusteredBox]]:
    remaining, clusters = list(boxes), []
    while remaining:
        members, skipped = [remaining[0]], list[ClusteredBox]()
        for candidate in remaining[1:]:
            overlaps = any(_overlap(candidate, member, threshold, generation) for member in members)
            (members if overlaps else skipped).append(candidate)
        clusters.append(members)
        remaining = skipped
    return clusters


def _union_find(boxes: list[ClusteredBox], threshold: float, generation: Generation) -> list[list[ClusteredBox]]:
    parent = list(range(len(boxes)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, member in enumerate(boxes):
        for earlier in range(index):
            if _overlap(member, boxes[earlier], threshold, generation):
                low, high = sorted((root(index), root(earlier)))
                parent[high] = low
    groups: dict[int, list[ClusteredBox]] = {}
    for index, member in enumerate(boxes):
        groups.setdefault(root(index), []).append(member)
    return list(groups.values())


def _merge_by_detection(members: list[ClusteredBox]) -> list[ClusteredBox]:
    """Replace the boxes of each detection by their bounding box."""
    merged: dict[int, Box] = {}
    for member in members:
        known = merged.get(member.detection_id)
        merged[member.detection_id] = member.box if known is None else bounding_box(known, member.box)
    return [ClusteredBox(detection_id, box) for detection_id, box in merged.items()]


def bounding_box(box: Box, other: Box) -> Box:
    """Return the smallest box around two boxes, with the higher confidence."""
    return Box(
        min(box.x1, other.x1),
        min(box.y1, other.y1),
        max(box.x2, other.x2),
        max(box.y2, other.y2),
        max(box.confidence, other.confidence),
    )


def _area(box: Box) -> float:
    return (box.x2 - box.x1) * (box.y2 - box.y1)


def _parse_box(inner: str) -> Box | None:
    numbers = _FIVE_NUMBERS.fullmatch(inner)
    return None if numbers is None else valid_box(*map(float, numbers.groups()))
