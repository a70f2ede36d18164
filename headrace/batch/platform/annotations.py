"""The annotation API, where people review the imported sequences.

Every call may be repeated. The API answers 409 for a sequence or annotation that exists already, but also for any other
conflict, so a read tells which it was. Detections have no unique key in the first generation, so an upload is only
repeated after looking for the detection.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Self

import orjson

from headrace.batch.platform.api import ApiClient, ApiRequest, PlatformApiError, PlatformImage
from headrace.batch.platform.boxes import Generation
from headrace.batch.platform.entities import (
    WILDFIRE,
    Annotation,
    AnnotationSequence,
    ApiEntity,
    Entity,
    EntityPage,
    UploadedDetection,
)
from headrace.batch.platform.payloads import ANNOTATED, CREATE_ONLY, format_time, is_up_to_date
from headrace.runtime.logs import Action, get_log

ROWS_MAX = 100  # the API's own limit for one page
PAGES_MAX = 10_000
_PARKED_NOTE = "auto-skip at import: boxless alert (no engine boxes)"
_LABEL = "is_wildfire_alertapi"
# New rows come last in this order, so none is missed between two pages.
_OLDEST_FIRST: dict[str, str | int] = {"order_by": "created_at", "order_direction": "asc"}


@dataclass(frozen=True, slots=True)
class ImageSource:
    """Where the API fetches an image from; second generation only."""

    path: str
    field: str
    value: str

    @classmethod
    def bucket_key(cls, key: str) -> Self:
        """Return an object of the platform's bucket."""
        return cls("from-bucket-key", "source_key", key)

    @classmethod
    def url(cls, url: str) -> Self:
        """Return a URL of the platform."""
        return cls("from-url", "source_url", url)


class AnnotationOutcome(StrEnum):
    """The outcome of annotating a sequence."""

    CREATED = "created"
    OVERWRITTEN = "overwritten"
    UNCHANGED = "unchanged"
    KEPT = "kept"  # a person has finished it


class AnnotationApi:
    """Reads and writes sequences, detections and annotations."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api
        self.generation = Generation.FIRST

    async def open(self) -> None:
        """Log in, and find out which generation the API is of: only the second can park an alert."""
        await self._api.log_in()
        try:
            schema = await self._api.request(ApiRequest("GET", "/openapi.json"))
        except PlatformApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            schema = None
        paths = schema.get("paths") if isinstance(schema, dict) else None
        if isinstance(paths, dict) and "/api/v1/sequences/alert/skip" in paths:
            self.generation = Generation.SECOND
        get_log().debug(Action.READY, service="annotation API", generation=self.generation.value)

    async def create_sequence(self, form: Mapping[str, str]) -> tuple[int, bool]:
        """Return the id of the sequence that a form describes, and whether it is new."""
        try:
            answer = await self._post_sequence(form)
        except PlatformApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            known = await self._find_sequence(form)
            if known is None:
                raise PlatformApiError(
                    self._api.url,
                    "the annotation API reports a duplicate sequence (409), but does not list it",
                    error.status,
                    hint="a field of the sequence conflicts with another row; see that API's log",
                ) from None
            return known.id, False
        return self._api.validated("/sequences/", ApiEntity, answer).id, True

    async def sequences_between(self, begin: datetime, end: datetime) -> list[AnnotationSequence]:
        """Return the sequences of all platforms recorded from `begin` to `end`, both included."""
        params: dict[str, str | int] = {
            "recorded_at_gte": format_time(begin),
            "recorded_at_lte": format_time(end),
        }
        by_id: dict[int, AnnotationSequence] = {}
        async for sequence in self._rows("/sequences/", AnnotationSequence, params | _OLDEST_FIRST):
            if begin <= sequence.recorded_at <= end:
                by_id[sequence.id] = sequence
        return list(by_id.values())

    async def uploaded(self, sequence_id: int) -> list[UploadedDetection]:
        """Return the detections of a sequence, in the order in which they were recorded."""
        params = {"sequence_id": sequence_id, **_OLDEST_FIRST}
        by_id = {row.id: row async for row in self._rows("/detections/", UploadedDetection, params)}
        return sorted(by_id.values(), key=lambda row: (row.recorded_at, row.alert_api_id, row.id))

    async def readable(self, sequence_id: int) -> dict[int, int] | None:
        """Return the detections whose images can be read, as the platform's id and this API's, and delete the others.

        Returns None, without a deletion, if one cannot be deleted: the API refuses to delete an image without a key.
        Then only deleting the sequence helps.
        """
        readable: dict[int, int] = {}
        broken: list[int] = []
        for row in await self.uploaded(sequence_id):
            if not row.is_stored:
                return None
            if await self._has_image(row.id):
                readable[row.alert_api_id] = row.id
            else:
                broken.append(row.id)
        for detection_id in broken:
            await self._delete(f"/detections/{detection_id}")
        return readable

    async def delete_sequence(self, sequence_id: int) -> None:
        """Delete a sequence with its detections and annotation; one that is gone already is no error.

        Raises:
            PlatformApiError: a person has annotated it.
        """
        annotation = await self._find_annotation(sequence_id)
        if annotation is not None and annotation.processing_stage in ANNOTATED:
            raise PlatformApiError(
                self._api.url,
                f"sequence {sequence_id} of the annotation API has a detection without an image, and is annotated",
                hint="delete the sequence there, which deletes its annotation, and import it again",
            )
        await self._delete(f"/sequences/{sequence_id}", force="true")

    async def _has_image(self, detection_id: int) -> bool:
        try:
            await self._api.request(ApiRequest("GET", f"/detections/{detection_id}/url"))
        except PlatformApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return False
        return True

    async def has_annotation(self, sequence_id: int) -> bool:
        """Return whether a sequence is annotated."""
        return await self._find_annotation(sequence_id) is not None

    async def has_all_images(self, sequence_id: int) -> bool:
        """Return whether every detection of a sequence has the key of an image."""
        return all(row.is_stored for row in await self.uploaded(sequence_id))

    async def refresh_score(self, body: Mapping[str, Any]) -> None:
        """Replace the temporal score of a sequence; second generation only."""
        await self._api.request(ApiRequest("PATCH", "/sequences/temporal-score", body=body))

    async def park(self, source: str, platform_alert_id: int) -> bool:
        """Park an alert without boxes, which nobody can classify, and return whether it was not parked before."""
        body = {"source_api": source, "platform_alert_id": platform_alert_id, "note": _PARKED_NOTE}
        try:
            await self._api.request(ApiRequest("POST", "/sequences/alert/skip", body=body))
        except PlatformApiError as error:
            if error.status != HTTPStatus.CONFLICT:
                raise
            return False
        return True

    async def upload(self, body: Mapping[str, Any], image: PlatformImage | ImageSource) -> int:
        """Create a detection, with an uploaded image or with one that the API fetches, and return its id."""
        sequence_id, alert_api_id = body["sequence_id"], body["alert_api_id"]

        async def find_uploaded() -> dict[str, int] | None:
            known = {row.alert_api_id: row.id for row in await self.uploaded(sequence_id) if row.is_stored}
            return {"id": known[alert_api_id]} if alert_api_id in known else None

        if isinstance(image, PlatformImage):
            request = ApiRequest("POST", "/detections/", form=_as_form(body), image=image)
        else:
            request = ApiRequest("POST", f"/detections/{image.path}", body={**body, image.field: image.value})
        try:
            answer = await self._api.request(request, find_applied=find_uploaded)
        except PlatformApiError as error:
            # The second generation has a unique key: somebody else has uploaded it in the meantime.
            if error.status != HTTPStatus.CONFLICT or (answer := await find_uploaded()) is None:
                raise
        return self._api.validated("/detections/", ApiEntity, answer).id

    async def annotate(self, body: Mapping[str, Any], *, keep_annotated: bool) -> AnnotationOutcome:
        """Create a sequence's annotation, or overwrite an existing one that differs."""
        sequence_id = body["sequence_id"]
        existing = await self._find_annotation(sequence_id)
        if existing is None:
            try:
                await self._create_annotation(body)
            except PlatformApiError as error:
                if error.status != HTTPStatus.CONFLICT:
                    raise
                existing = await self._find_annotation(sequence_id)
                if existing is None:
                    raise
            else:
                return AnnotationOutcome.CREATED
        if keep_annotated and existing.processing_stage in ANNOTATED:
            return AnnotationOutcome.KEPT
        if is_up_to_date(existing, dict(body)):
            return AnnotationOutcome.UNCHANGED
        if not body["annotation"]["sequences_bbox"]:
            # A change without tracks makes the server cluster by its own defaults instead of the given thresholds.
            await self._delete(f"/annotations/sequences/{existing.id}")
            await self._create_annotation(body)
            return AnnotationOutcome.OVERWRITTEN
        changes = {name: value for name, value in body.items() if name not in {"sequence_id", *CREATE_ONLY}}
        await self._api.request(ApiRequest("PATCH", f"/annotations/sequences/{existing.id}", body=changes))
        return AnnotationOutcome.OVERWRITTEN

    async def _create_annotation(self, body: Mapping[str, Any]) -> None:
        request = ApiRequest("POST", "/annotations/sequences/", body=body)
        await self._api.request(request, find_applied=lambda: self._find_annotation(body["sequence_id"]))

    async def _delete(self, path: str, **params: str) -> None:
        """Delete a row; one that is gone already is no error."""
        try:
            await self._api.request(ApiRequest("DELETE", path, params=params))
        except PlatformApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise

    async def _post_sequence(self, form: Mapping[str, str]) -> Any:
        """Post a sequence; an API whose label is a boolean refuses the label's name and receives the boolean."""
        try:
            return await self._api.request(ApiRequest("POST", "/sequences/", form=form))
        except PlatformApiError as error:
            if error.status != HTTPStatus.UNPROCESSABLE_ENTITY or _LABEL not in form:
                raise
        with_boolean = {**form, _LABEL: str(form[_LABEL] == WILDFIRE).lower()}
        return await self._api.request(ApiRequest("POST", "/sequences/", form=with_boolean))

    async def _find_annotation(self, sequence_id: int) -> Annotation | None:
        async for annotation in self._rows("/annotations/sequences/", Annotation, {"sequence_id": sequence_id}):
            if annotation.sequence_id == sequence_id:
                return annotation
        return None

    async def _find_sequence(self, form: Mapping[str, str]) -> AnnotationSequence | None:
        """Find a sequence by the platform's id, which is no filter of the API: first around its time, then anywhere."""
        recorded_at = datetime.fromisoformat(form["recorded_at"])
        second = timedelta(seconds=1)
        around: dict[str, str | int] = {
            "recorded_at_gte": (recorded_at - second).isoformat(),
            "recorded_at_lte": (recorded_at + second).isoformat(),
        }
        source: dict[str, str | int] = {"source_api": form["source_api"]}
        for params in (source | around, source):
            async for sequence in self._rows("/sequences/", AnnotationSequence, params | _OLDEST_FIRST):
                if sequence.alert_api_id == int(form["alert_api_id"]) and sequence.source_api == form["source_api"]:
                    return sequence
        return None

    async def _rows(self, path: str, kind: type[Entity], params: Mapping[str, str | int]) -> AsyncIterator[Entity]:
        for number in range(1, PAGES_MAX + 1):
            page = await self._api.get(path, EntityPage[kind], **params, page=number, size=ROWS_MAX)  # type: ignore[valid-type]
            for row in page.items:
                yield row
            if number >= page.pages or not page.items:
                return
        raise PlatformApiError(self._api.url, f"{path} has more than {PAGES_MAX} pages")


def _as_form(body: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: orjson.dumps(value).decode() if isinstance(value, dict) else str(value) for name, value in body.items()
    }
