"""Converts the platform's sequences and detections to requests of the annotation API and to events. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any
from urllib.parse import urlsplit

import orjson

from headrace.batch.platform.boxes import Box, Cluster, ClusteredBox, ClusterRule, bounding_box
from headrace.batch.platform.entities import Annotation, Detection, SequenceData
from headrace.batch.platform.objects import ImportedFrame, SequencePart
from headrace.schemas.events import Origin

READY = "ready_to_annotate"
# Fields of a new annotation only: the servers answer 500 to a change that has one of them.
CREATE_ONLY = ("confidence_threshold", "iou_threshold", "min_cluster_size")
ANNOTATED = frozenset({"annotated", "seq_annotation_done"})  # a person has worked on it
_CLASS = "smoke"
_SOURCES = {"apicenia.pyronear.org": "api_cenia"}
_SOURCE = "pyronear_french"


def source_api(platform_url: str) -> str:
    """Return the annotation API's name of the platform at this URL."""
    return _SOURCES.get(urlsplit(platform_url).hostname or "", _SOURCE)


def format_time(time: datetime) -> str:
    """Return a time in the format of both APIs: UTC, without an offset."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat()


def sequence_form(source: str, data: SequenceData, part: SequencePart) -> dict[str, str]:
    """Return the form that creates a sequence in the annotation API."""
    sequence, camera, organisation = data.sequence, data.camera, data.organisation
    fields: dict[str, object] = {
        "source_api": source,
        "alert_api_id": part.alert_api_id,
        "platform_alert_id": part.platform_alert_id,
        "camera_name": camera.name,
        "camera_id": camera.id,
        "organisation_name": organisation.name,
        "organisation_id": organisation.id,
        "is_wildfire_alertapi": sequence.wildfire_label,
        "lat": camera.lat,
        "lon": camera.lon,
        "azimuth": part.azimuth,
        "recorded_at": format_time(part.started_at),
        "last_seen_at": None if part.last_seen_at is None else format_time(part.last_seen_at),
        "temporal_model_score": part.temporal.score,
        "temporal_model_version": part.temporal.model_version,
        "temporal_api_version": part.temporal.api_version,
    }
    return {name: str(value) for name, value in fields.items() if value is not None}


def detection_body(sequence_id: int, frame: ImportedFrame) -> dict[str, Any]:
    """Return the fields of a detection; `sequence_id` is the annotation API's."""
    body: dict[str, Any] = {
        "algo_predictions": {"predictions": _predictions(frame.boxes)},
        "alert_api_id": frame.detection.id,
        "sequence_id": sequence_id,
        "recorded_at": format_time(frame.detection.created_at),
    }
    if frame.others:
        body["others_bboxes"] = {"predictions": _predictions(frame.others)}
    return body


def temporal_body(source: str, part: SequencePart) -> dict[str, Any]:
    """Return the body that replaces the temporal score of a sequence."""
    return {
        "source_api": source,
        "alert_api_id": part.alert_api_id,
        "temporal_model_score": part.temporal.score,
        "temporal_model_version": part.temporal.model_version,
        "temporal_api_version": part.temporal.api_version,
    }


def single_track(ids: Mapping[int, int], part: SequencePart) -> tuple[Cluster, ...]:
    """Return the only track of an object; `ids` are the annotation API's detections, by the platform's."""
    boxes = [(ids[frame.detection.id], frame.boxes) for frame in part.frames if frame.boxes]
    return track_of(boxes)


def track_of(boxes: Iterable[tuple[int, Sequence[Box]]]) -> tuple[Cluster, ...]:
    """Return one track of all boxes, in which the boxes of a detection are joined."""
    members = tuple(ClusteredBox(number, reduce(bounding_box, own)) for number, own in boxes if own)
    return (members,) if members else ()


def annotation_body(sequence_id: int, clusters: Sequence[Cluster], rule: ClusterRule) -> dict[str, Any]:
    """Return the body that creates a sequence's annotation; the clusters name the annotation API's detections.

    The servers cluster by themselves if the list is empty, and keep given clusters unchanged.
    """
    tracks = [
        {
            "is_smoke": True,
            "false_positive_types": [],
            "bboxes": [{"detection_id": member.detection_id, "xyxyn": member.box.xyxyn} for member in members],
        }
        for members in clusters
    ]
    return {
        "sequence_id": sequence_id,
        "has_missed_smoke": False,
        "is_unsure": False,
        "annotation": {"sequences_bbox": tracks},
        "processing_stage": READY,
        **dict(zip(CREATE_ONLY, (rule.confidence_threshold, rule.iou_threshold, rule.min_cluster_size), strict=True)),
    }


def is_up_to_date(existing: Annotation, body: dict[str, Any]) -> bool:
    """Return whether an annotation already has the stage and the tracks of `body`."""
    return existing.processing_stage == body["processing_stage"] and _tracks(existing.annotation or {}) == _tracks(
        body["annotation"]
    )


def frame_attributes(source: str, data: SequenceData, detection: Detection, shared: Iterable[tuple[int, int]]) -> bytes:
    """Return the attributes of a frame's record, as a JSON object.

    `shared` names the sequences that have the same image, each with its detection.
    """
    sequence, camera, organisation = data.sequence, data.camera, data.organisation
    azimuth = sequence.degrees if detection.azimuth is None else detection.azimuth
    owners = sorted({*shared, (sequence.id, detection.id)})
    attributes = {
        "platform": source,
        "organisation": {"id": organisation.id, "name": organisation.name},
        "camera": {"id": camera.id, "name": camera.name, "angle_of_view": camera.angle_of_view},
        "position": {"lat": camera.lat, "lon": camera.lon, "elevation": camera.elevation},
        "azimuth": azimuth,
        "sequence": {
            "id": sequence.id,
            "started_at": sequence.started_at.isoformat(),
            "last_seen_at": sequence.last_seen_at and sequence.last_seen_at.isoformat(),
            "is_wildfire": sequence.wildfire_label,
        },
        "detection": {"id": detection.id, "created_at": detection.created_at.isoformat()},
        "sequences": [{"id": number, "detection": own} for number, own in owners],
        "predictions": _predictions(detection.predictions.boxes),
        "other_predictions": _predictions(detection.others.boxes),
    }
    return orjson.dumps(attributes)


def frame_origin(data: SequenceData, detection: Detection) -> Origin:
    """Return the origin of a frame: the camera, at the organisation's site; its sequence is the detection's id."""
    captured_at = detection.recorded_at or detection.created_at
    return Origin(
        source_id=data.camera.name.strip(),
        site=data.organisation.name.strip(),
        captured_at_us=round(captured_at.timestamp() * 1_000_000),
        sequence=detection.id,
    )


def _predictions(boxes: Iterable[Box]) -> list[dict[str, Any]]:
    return [{"xyxyn": box.xyxyn, "confidence": box.confidence, "class_name": _CLASS} for box in boxes]


def _tracks(annotation: dict[str, Any]) -> object:
    """Return only the fields of tracks that the import writes; servers add others."""
    tracks = annotation.get("sequences_bbox")
    if not isinstance(tracks, list):
        return None
    return [
        (
            track.get("is_smoke"),
            [(box.get("detection_id"), list(box.get("xyxyn", ()))) for box in track.get("bboxes", ())],
        )
        for track in tracks
    ]
