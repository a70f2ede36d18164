"""From the platform's sequences and detections to what the annotation API and this service are given."""

from collections.abc import Iterable
from collections.abc import Sequence as Several
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import orjson

from headrace.batch.platform.boxes import Box
from headrace.batch.platform.clusters import Cluster, Rule
from headrace.batch.platform.entities import AlertSequence, Annotation, Detection, Organisation, PlatformCamera
from headrace.schemas.events import Origin

READY = "ready_to_annotate"
ANNOTATED = frozenset({"annotated", "seq_annotation_done"})  # a person has been at work
_CLASS = "smoke"
_SOURCES = {"apicenia.pyronear.org": "api_cenia"}
_SOURCE = "pyronear_french"


def source_api(platform_url: str) -> str:
    """Return what the annotation API calls the platform at this address."""
    return _SOURCES.get(urlsplit(platform_url).hostname or "", _SOURCE)


def stamp(time: datetime) -> str:
    """Write a time as both APIs do: UTC, without saying so."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat()


def sequence_form(
    source: str, sequence: AlertSequence, camera: PlatformCamera, organisation: Organisation
) -> dict[str, str]:
    """Return the form that creates a sequence in the annotation API."""
    said: dict[str, object] = {
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
        "recorded_at": stamp(sequence.started_at),
        "last_seen_at": None if sequence.last_seen_at is None else stamp(sequence.last_seen_at),
        "temporal_model_score": sequence.temporal_model_score,
        "temporal_model_version": sequence.temporal_model_version,
        "temporal_api_version": sequence.temporal_api_version,
    }
    return {name: str(value) for name, value in said.items() if value is not None}


def detection_form(sequence_id: int, detection: Detection) -> dict[str, str]:
    """Return the form that uploads a detection, beside its picture; `sequence_id` is the annotation API's."""
    form = {
        "algo_predictions": _predictions_text(detection.predictions.boxes),
        "alert_api_id": str(detection.id),
        "sequence_id": str(sequence_id),
        "recorded_at": stamp(detection.created_at),
    }
    if others := detection.others.boxes:
        form["others_bboxes"] = _predictions_text(others)
    return form


def annotation_body(sequence_id: int, clusters: Several[Cluster], rule: Rule) -> dict[str, Any]:
    """Return what creates a sequence's annotation; the clusters name the annotation API's detections.

    The servers cluster by themselves where the list is empty; given clusters are kept as they are.
    """
    tracks = [
        {
            "is_smoke": True,
            "false_positive_types": [],
            "bboxes": [{"detection_id": one.detection_id, "xyxyn": one.box.xyxyn} for one in members],
        }
        for members in clusters
    ]
    return {
        "sequence_id": sequence_id,
        "has_missed_smoke": False,
        "is_unsure": False,
        "annotation": {"sequences_bbox": tracks},
        "processing_stage": READY,
        "confidence_threshold": rule.confidence_threshold,
        "iou_threshold": rule.iou_threshold,
        "min_cluster_size": rule.min_cluster_size,
    }


def says_the_same(existing: Annotation, body: dict[str, Any]) -> bool:
    """Say whether an annotation is ready and already has these tracks."""
    return existing.processing_stage == body["processing_stage"] and _tracks(existing.annotation or {}) == _tracks(
        body["annotation"]
    )


def frame_attributes(
    source: str, sequence: AlertSequence, detection: Detection, camera: PlatformCamera, organisation: Organisation
) -> bytes:
    """Return what a frame's record says of where it came from, as a JSON object."""
    azimuth = sequence.degrees if detection.azimuth is None else detection.azimuth
    said = {
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
    return orjson.dumps(said)


def frame_origin(detection: Detection, camera: PlatformCamera, organisation: Organisation) -> Origin:
    """Return who saw a frame: the camera, at the organisation's site; the detection's id numbers it."""
    seen = detection.recorded_at or detection.created_at
    return Origin(
        source_id=camera.name.strip(),
        site=organisation.name.strip(),
        captured_at_us=round(seen.timestamp() * 1_000_000),
        sequence=detection.id,
    )


def _predictions(boxes: Iterable[Box]) -> list[dict[str, Any]]:
    return [{"xyxyn": box.xyxyn, "confidence": box.confidence, "class_name": _CLASS} for box in boxes]


def _predictions_text(boxes: Iterable[Box]) -> str:
    return orjson.dumps({"predictions": _predictions(boxes)}).decode()


def _tracks(annotation: dict[str, Any]) -> object:
    """Return only what the import says of tracks: servers add fields of their own."""
    tracks = annotation.get("sequences_bbox")
    if not isinstance(tracks, list):
        return None
    return [
        (one.get("is_smoke"), [(box.get("detection_id"), list(box.get("xyxyn", ()))) for box in one.get("bboxes", ())])
        for one in tracks
    ]
