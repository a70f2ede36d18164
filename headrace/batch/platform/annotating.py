"""The annotation API: where sequences are put for people to look at.

Every call may be repeated. A sequence or annotation that is there already answers 409, but so does any other conflict:
only a read says which it was. Detections have no key in the first generation, so one is only sent again after a look.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from http import HTTPStatus
from typing import Any, TypeVar

from headrace.batch.platform.api import Api, PlatformApiError, PlatformImage
from headrace.batch.platform.entities import WILDFIRE, Annotation, Entity, EntityPage, Listed, UploadedDetection
from headrace.batch.platform.payloads import ANNOTATED, says_the_same, stamp

ROWS_MAX = 100  # that the API gives at a time
PAGES_MAX = 10_000
_LABEL = "is_wildfire_alertapi"
# What is added comes last, so nothing slips over the edge between two pages.
_STEADY: dict[str, str | int] = {"order_by": "created_at", "order_direction": "asc"}

Row = TypeVar("Row", bound=Entity)


class Made(StrEnum):
    """What became of an annotation."""

    CREATED = "created"
    OVERWRITTEN = "overwritten"
    UNCHANGED = "unchanged"
    KEPT = "kept"  # a person had finished it


class Annotations:
    """Writes to the annotation API."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def open(self) -> None:
        """Log in."""
        await self._api.log_in()

    async def create_sequence(self, form: Mapping[str, str]) -> tuple[int, bool]:
        """Return the id of the sequence that a form describes, and whether it is new."""
        try:
            answer = await self._post_sequence(form)
        except PlatformApiError as fault:
            if fault.status != HTTPStatus.CONFLICT:
                raise
            known = await self._find(form)
            if known is None:
                raise PlatformApiError(
                    self._api.url,
                    "the annotation API refuses the sequence as known (409), and does not have it",
                    fault.status,
                    hint="something that it refers to conflicts there; that API's log says what",
                ) from None
            return known.id, False
        return self._api.checked("/sequences/", Entity, answer).id, True

    async def sequences_between(self, source: str, begin: datetime, end: datetime) -> list[Listed]:
        """Return a platform's sequences that were recorded from one time to another, both included."""
        params: dict[str, str | int] = {
            "source_api": source,
            "recorded_at_gte": stamp(begin),
            "recorded_at_lte": stamp(end),
        }
        found = [one async for one in self._rows("/sequences/", Listed, params | _STEADY)]
        return list(
            {one.id: one for one in found if one.source_api == source and begin <= one.recorded_at <= end}.values()
        )

    async def uploaded(self, sequence_id: int) -> list[UploadedDetection]:
        """Return the detections that a sequence has, in the order in which they were recorded."""
        params = {"sequence_id": sequence_id, **_STEADY}
        found = {one.id: one async for one in self._rows("/detections/", UploadedDetection, params)}
        return sorted(found.values(), key=lambda one: (one.recorded_at, one.alert_api_id, one.id))

    async def upload(self, form: Mapping[str, str], picture: PlatformImage) -> int:
        """Upload a detection and return its id."""
        sequence_id, alert_api_id = int(form["sequence_id"]), int(form["alert_api_id"])

        async def already() -> dict[str, int] | None:
            known = {one.alert_api_id: one.id for one in await self.uploaded(sequence_id)}
            return {"id": known[alert_api_id]} if alert_api_id in known else None

        try:
            answer = await self._api.request("POST", "/detections/", form=form, picture=picture, settled=already)
        except PlatformApiError as fault:
            # The second generation has a key: somebody else uploaded it meanwhile.
            if fault.status != HTTPStatus.CONFLICT or (answer := await already()) is None:
                raise
        return self._api.checked("/detections/", Entity, answer).id

    async def annotate(self, body: Mapping[str, Any], *, keep_annotated: bool) -> Made:
        """Create a sequence's annotation, or overwrite the one that is there where it says something else."""
        existing = await self._annotation(body["sequence_id"])
        if existing is None:
            try:
                await self._api.request(
                    "POST", "/annotations/sequences/", body=body, settled=lambda: self._annotation(body["sequence_id"])
                )
            except PlatformApiError as fault:
                if fault.status != HTTPStatus.CONFLICT:
                    raise
                existing = await self._annotation(body["sequence_id"])
                if existing is None:
                    raise
            else:
                return Made.CREATED
        if keep_annotated and existing.processing_stage in ANNOTATED:
            return Made.KEPT
        if says_the_same(existing, dict(body)):
            return Made.UNCHANGED
        changes = {name: value for name, value in body.items() if name != "sequence_id"}
        await self._api.request("PATCH", f"/annotations/sequences/{existing.id}", body=changes)
        return Made.OVERWRITTEN

    async def _post_sequence(self, form: Mapping[str, str]) -> Any:
        """Send a sequence's form; where the API has no names for labels yet, it takes yes or no."""
        try:
            return await self._api.request("POST", "/sequences/", form=form)
        except PlatformApiError as fault:
            if fault.status != HTTPStatus.UNPROCESSABLE_ENTITY or _LABEL not in form:
                raise
        older = {**form, _LABEL: str(form[_LABEL] == WILDFIRE).lower()}
        return await self._api.request("POST", "/sequences/", form=older)

    async def _annotation(self, sequence_id: int) -> Annotation | None:
        async for one in self._rows("/annotations/sequences/", Annotation, {"sequence_id": sequence_id}):
            if one.sequence_id == sequence_id:
                return one
        return None

    async def _find(self, form: Mapping[str, str]) -> Listed | None:
        """Find a sequence by the platform's id, for which the API has no filter: first where it should be."""
        recorded_at = datetime.fromisoformat(form["recorded_at"])
        second = timedelta(seconds=1)
        near: dict[str, str | int] = {
            "recorded_at_gte": (recorded_at - second).isoformat(),
            "recorded_at_lte": (recorded_at + second).isoformat(),
        }
        source: dict[str, str | int] = {"source_api": form["source_api"]}
        for params in (source | near, source):
            async for one in self._rows("/sequences/", Listed, params | _STEADY):
                if one.alert_api_id == int(form["alert_api_id"]) and one.source_api == form["source_api"]:
                    return one
        return None

    async def _rows(self, path: str, kind: type[Row], params: Mapping[str, str | int]) -> AsyncIterator[Row]:
        for number in range(1, PAGES_MAX + 1):
            page = await self._api.get(path, EntityPage[kind], **params, page=number, size=ROWS_MAX)  # type: ignore[valid-type]
            for row in page.items:
                yield row
            if number >= page.pages or not page.items:
                return
        raise PlatformApiError(self._api.url, f"{path} has over {PAGES_MAX} pages")
