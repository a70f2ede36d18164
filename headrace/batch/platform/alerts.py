"""The platform's alert API: sequences, detections, cameras, organisations and images.

The platform lists the newest rows first and pages by offset. Rows that are added while pages are read shift the rest
down; rows that are removed shift it up, and a row could be missed at a page boundary. So each page starts at the last
row of the previous one: while that row is still in its place, nothing has shifted. Otherwise the list is read again
from the start. A server may return fewer rows than requested, so only a page without new rows is the last one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeAlias

from headrace.batch.platform.api import ApiClient, PlatformApiError
from headrace.batch.platform.entities import (
    AlertSequence,
    Detection,
    InvalidRow,
    Organisation,
    PlatformCamera,
    group_by_image,
)

PAGE_ROWS = 100
PASSES_MAX = 10  # over a list that changes during every pass
DETECTION_ROWS_MAX = 100  # the platform's own limit for one response
SEQUENCES_MAX = 100_000  # of one day; a longer list is taken as endless
# The second generation hides detections below a class of fire risk on days of low risk. With this class it hides none.
# The first generation ignores the parameter.
_RISK_SCORE = "extreme"
_URL_EXPIRED = frozenset({400, 403, 404, 410})  # what object stores answer to an expired presigned URL


@dataclass(frozen=True, slots=True)
class PageCursor:
    """Where the next page starts, and the ids of the previous page."""

    offset: int = 0
    previous_ids: tuple[int, ...] = ()
    passes: int = 1


@dataclass(frozen=True, slots=True)
class ListComplete:
    """Every row of the list was read."""


@dataclass(frozen=True, slots=True)
class ListUnstable:
    """The list changed during every pass."""


PagingStep: TypeAlias = PageCursor | ListComplete | ListUnstable


def next_page(cursor: PageCursor, ids: Sequence[int]) -> PagingStep:
    """Return how to go on after a page with these ids."""
    previous = cursor.previous_ids
    if not previous:
        return PageCursor(len(ids) - 1, tuple(ids), cursor.passes) if ids else ListComplete()
    if len(ids) < PAGE_ROWS and tuple(ids) == previous:
        return ListComplete()  # the server does not page and returned everything, or this is the only row again
    if not ids or ids[0] != previous[-1]:
        return ListUnstable() if cursor.passes >= PASSES_MAX else PageCursor(passes=cursor.passes + 1)
    return PageCursor(cursor.offset + len(ids) - 1, tuple(ids), cursor.passes) if len(ids) > 1 else ListComplete()


class AlertApi:
    """Reads with the regular login; only the admin login may read organisations."""

    def __init__(self, api: ApiClient, admin: ApiClient) -> None:
        self._api = api
        self._admin = admin
        self._cameras: dict[int, PlatformCamera] = {}
        self._organisations: dict[int, Organisation] = {}

    async def open(self) -> None:
        """Log in, and read cameras and organisations."""
        await self._api.log_in()
        await self._admin.log_in()
        # An invalid row is requested again by id where a sequence needs it, and reported there.
        cameras = await self._api.rows("/cameras/", PlatformCamera, include_non_trustable="true")
        self._cameras = {camera.id: camera for camera in cameras if not isinstance(camera, InvalidRow)}
        organisations = await self._admin.rows("/organizations/", Organisation)
        self._organisations = {row.id: row for row in organisations if not isinstance(row, InvalidRow)}

    async def sequences_of(self, day: date) -> list[AlertSequence | InvalidRow]:
        """Return all sequences that started on a day.

        Raises:
            HeadraceError: the list could not be read completely.
        """
        sequences: dict[int, AlertSequence | InvalidRow] = {}
        cursor = PageCursor()
        while len(sequences) <= SEQUENCES_MAX:
            page = await self._api.rows(
                "/sequences/all/fromdate",
                AlertSequence,
                from_date=day.isoformat(),
                limit=PAGE_ROWS,
                offset=cursor.offset,
                risk_score=_RISK_SCORE,
            )
            sequences |= {sequence.id: sequence for sequence in page}
            match next_page(cursor, [sequence.id for sequence in page]):
                case PageCursor() as following:
                    cursor = following
                case ListComplete():
                    return list(sequences.values())
                case ListUnstable():
                    raise PlatformApiError(self._api.url, f"the list of {day} changed during all {PASSES_MAX} passes")
        raise PlatformApiError(self._api.url, f"the list of {day} has more than {SEQUENCES_MAX} sequences")

    async def detections_of(self, sequence_id: int, *, images_max: int, newest_first: bool) -> list[Detection]:
        """Return at most `images_max` of the first or the last detections of a sequence, in order of creation."""
        rows: dict[int, Detection] = {}
        detections: list[Detection] = []
        while len(detections) <= images_max:  # the last image may have more rows
            # The first generation does not know the offset, so it is sent only where it is needed.
            offset = {"offset": len(rows)} if rows else {}
            page = await self._api.get(
                f"/sequences/{sequence_id}/detections",
                list[Detection],
                limit=DETECTION_ROWS_MAX,
                desc=str(newest_first).lower(),
                **offset,
            )
            known = len(rows)
            rows |= {row.id: row for row in page if row.id not in rows}
            detections = group_by_image(rows.values())
            if len(page) < DETECTION_ROWS_MAX or len(rows) == known:
                break
        return sorted(detections[:images_max], key=lambda detection: (detection.created_at, detection.id))

    async def camera(self, camera_id: int) -> PlatformCamera:
        """Return a camera."""
        if camera_id not in self._cameras:
            self._cameras[camera_id] = await self._api.get(f"/cameras/{camera_id}", PlatformCamera)
        return self._cameras[camera_id]

    async def organisation(self, organisation_id: int) -> Organisation:
        """Return an organisation."""
        if organisation_id not in self._organisations:
            row = await self._admin.get(f"/organizations/{organisation_id}", Organisation)
            self._organisations[organisation_id] = row
        return self._organisations[organisation_id]

    async def image(self, detection: Detection) -> bytes:
        """Return a detection's image; requests a new URL once if the given one has expired."""
        if detection.url:
            try:
                return await self._api.image(detection.url)
            except PlatformApiError as error:
                if error.status not in _URL_EXPIRED:
                    raise
        answer = await self._api.get(f"/detections/{detection.id}/url", dict[str, str | None])
        url = answer.get("url")
        if not url:
            raise PlatformApiError(self._api.url, f"the platform has no image URL for detection {detection.id}")
        return await self._api.image(url)
