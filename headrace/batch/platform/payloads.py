"""Converts the platform's sequences and detections to requests of the annotation API and to events. Pure."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from headrace.batch.platform.boxes import Box, Cluster, ClusterRule
from headrace.batch.platform.entities import AlertSequence, Annotation, Detection, Organisation, PlatformCamera
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


def sequence_form(
    source: str, sequence: AlertSequence, camera: PlatformCamera, organisation: Organisation
) -> dict[str, str]:
    """Return the form that creates a sequence in the annotation API."""
    fields: dict[str, object] = {
        "source_api": source,
        "alert_api_id": sequence.id,
        "camera_name": camera.name,
        "camera_id": camera.id,
        "organisation_name": organisation.name,
        "organisation_id": organisation.id,
        "is_wildfire_alertapi": sequence.wildfire_label,
        "lat": camera.lat,
        "lon": camera.lon,
        "azimuth": sequence.degrees,
        "recorded_at": format_time(sequence.started_at),
        "last_seen_at": None if sequence.last_seen_at is None else format_time(sequence.last_seen_at),
        "temporal_model_score": sequence.temporal_model_score,
        "temporal_model_version": sequence.temporal_model_version,
        "temporal_api_version": sequence.temporal_api_version,
    }
    return {name: str(value) for name, value in fields.items() if value is not None}


def detection_form(sequence_id: int, detection: Detection) -> dict[str, str]:
    """Return the form that uploads a detection with its image; `sequence_id` is the annotation API's."""
    form = {
        "algo_predictions": _predictions_text(detection.predictions.boxes),
        "alert_api_id": str(detection.id),
        "sequence_id": str(sequence_id),
        "recorded_at": format_time(detection.created_at),
    }
    if others := detection.others.boxes:
        form["others_bboxes"] = _predictions_text(others)
    return form


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


def frame_attributes(
    source: str, sequence: AlertSequence, detection: Detection, camera: PlatformCamera, organisation: Organisation
) -> bytes:
    """Return the attributes of a frame's record, as a JSON object."""
    azimuth = sequence.degrees if detection.azimuth is None else detection.azimuth
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
        "predictions": _predictions(detection.predictions.boxes),
        "other_predictions": _predictions(detection.others.boxes),
    }
    return orjson.dumps(attributes)


def frame_origin(detection: Detection, camera: PlatformCamera, organisation: Organisation) -> Origin:
    """Return the origin of a frame: the camera, at the organisation's site; its sequence is the detection's id."""
    captured_at = detection.recorded_at or detection.created_at
    return Origin(
        source_id=camera.name.strip(),
        site=organisation.name.strip(),
        captured_at_us=round(captured_at.timestamp() * 1_000_000),
        sequence=detection.id,
    )


def _predictions(boxes: Iterable[Box]) -> list[dict[str, Any]]:
    return [{"xyxyn": box.xyxyn, "confidence": box.confidence, "class_name": _CLASS} for box in boxes]


def _predictions_text(boxes: Iterable[Box]) -> str:
    return orjson.dumps({"predictions": _predictions(boxes)}).decode()


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
