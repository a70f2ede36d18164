"""The platform's alert API: sequences, detections, cameras, organisations and images."""

from datetime import date
from http import HTTPStatus

from headrace.batch.platform.api import ApiClient, PlatformApiError
from headrace.batch.platform.boxes import Generation
from headrace.batch.platform.entities import (
    AlertSequence,
    Detection,
    InvalidRow,
    Organisation,
    PlatformCamera,
    SequenceData,
    group_by_image,
)
from headrace.batch.platform.paging import PASSES_MAX, ListComplete, ListUnstable, PageCursor, next_page

DETECTION_ROWS_MAX = 100  # the platform's own limit for one response
SEQUENCES_MAX = 100_000  # of one day; a longer list is taken as endless
_SPARE_ROWS = 10  # requested beyond the limit from the second generation, in which an image can have several rows
# The second generation hides detections below a class of fire risk on days of low risk. With this class it hides none.
# The first generation ignores the parameter.
_RISK_SCORE = "extreme"
_URL_EXPIRED = frozenset({400, 403, 404, 410})  # what object stores answer to an expired presigned URL
_MISSING = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


class MissingImageError(PlatformApiError):
    """The platform has no image for a detection."""


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
                limit=cursor.limit,
                offset=cursor.offset,
                risk_score=_RISK_SCORE,
            )
            sequences |= {sequence.id: sequence for sequence in page}
            match next_page(cursor, [(sequence.id, _order_of(sequence)) for sequence in page]):
                case PageCursor() as following:
                    cursor = following
                case ListComplete():
                    return list(sequences.values())
                case ListUnstable():
                    raise PlatformApiError(self._api.url, f"the list of {day} changed during all {PASSES_MAX} passes")
        raise PlatformApiError(self._api.url, f"the list of {day} has more than {SEQUENCES_MAX} sequences")

    async def read(self, sequence: AlertSequence, *, images_max: int, newest_first: bool) -> SequenceData:
        """Return a sequence with its camera, its organisation, and at most `images_max` detections.

        They are the first or the last of the sequence's detections, in order of creation.
        """
        camera = await self.camera(sequence.camera_id)
        organisation = await self.organisation(camera.organization_id)
        note, lacks_images = "", False
        if sequence.generation is Generation.SECOND:
            detections = await self._second_generation(sequence.id, images_max, newest_first=newest_first)
        else:
            detections, lacks_images = await self._first_generation(sequence.id, images_max, newest_first=newest_first)
            if lacks_images:
                note = "the platform lists a detection whose image is missing; those around it are imported"
            elif len(detections) == DETECTION_ROWS_MAX < images_max:
                note = f"the platform returns at most {DETECTION_ROWS_MAX} detections of a sequence"
        detections = sorted(detections[:images_max], key=lambda detection: (detection.created_at, detection.id))
        return SequenceData(sequence, camera, organisation, detections, note, lacks_images)

    async def _second_generation(self, sequence_id: int, images_max: int, *, newest_first: bool) -> list[Detection]:
        rows: dict[int, Detection] = {}
        detections: list[Detection] = []
        limit = min(images_max + _SPARE_ROWS, DETECTION_ROWS_MAX)
        while len(detections) <= images_max:  # the last image may have more rows
            page = await self._page(sequence_id, limit, newest_first=newest_first, offset=len(rows))
            known = len(rows)
            rows |= {row.id: row for row in page if row.id not in rows}
            detections = group_by_image(rows.values())
            if len(page) < limit or len(rows) == known:
                break
        return detections

    async def _first_generation(
        self, sequence_id: int, images_max: int, *, newest_first: bool
    ) -> tuple[list[Detection], bool]:
        """Return the detections, and whether images are missing.

        This generation does not know an offset. It answers 404 if one image of the requested detections is missing.
        """
        limit = min(images_max, DETECTION_ROWS_MAX)
        try:
            return await self._page(sequence_id, limit, newest_first=newest_first), False
        except PlatformApiError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            page = await self._around_missing(sequence_id, limit, newest_first=newest_first)
            if not page:
                raise
            return page, True

    async def _around_missing(self, sequence_id: int, limit: int, *, newest_first: bool) -> list[Detection]:
        """Return the detections before the first one without an image, and those after the last one."""
        before = await self._longest(sequence_id, limit, newest_first=newest_first)
        after = await self._longest(sequence_id, DETECTION_ROWS_MAX, newest_first=not newest_first)
        rows = {row.id: row for row in (*before, *reversed(after))}
        return list(rows.values())

    async def _longest(self, sequence_id: int, limit: int, *, newest_first: bool) -> list[Detection]:
        """Return the most detections that the platform answers with, by bisection."""
        longest: list[Detection] = []
        readable, unreadable = 0, limit + 1
        while unreadable - readable > 1:
            middle = (readable + unreadable) // 2
            try:
                longest = await self._page(sequence_id, middle, newest_first=newest_first)
                readable = middle
            except PlatformApiError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                unreadable = middle
        return longest

    async def _page(self, sequence_id: int, limit: int, *, newest_first: bool, offset: int = 0) -> list[Detection]:
        shift = {"offset": offset} if offset else {}
        return await self._api.get(
            f"/sequences/{sequence_id}/detections",
            list[Detection],
            limit=limit,
            desc=str(newest_first).lower(),
            **shift,
        )

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
        """Return a detection's image; requests a new URL once if the given one has expired.

        Raises:
            MissingImageError: the platform does not have it.
            PlatformApiError: it could not be read.
        """
        if detection.url:
            try:
                return await self._api.image(detection.url)
            except PlatformApiError as error:
                if error.status not in _URL_EXPIRED:
                    raise
        try:
            return await self._api.image(await self.image_url(detection))
        except PlatformApiError as error:
            if error.status in _MISSING and not isinstance(error, MissingImageError):
                raise MissingImageError(error.where, error.what, error.status) from None
            raise

    async def image_url(self, detection: Detection) -> str:
        """Return a new URL of a detection's image."""
        answer = await self._api.get(f"/detections/{detection.id}/url", dict[str, str | None])
        url = answer.get("url")
        if not url:
            raise MissingImageError(self._api.url, f"the platform has no image URL for detection {detection.id}")
        return url


def _order_of(sequence: AlertSequence | InvalidRow) -> str:
    """Return what the platform orders a row by; an invalid row may lack it and stands for itself."""
    return sequence.started_at.isoformat() if isinstance(sequence, AlertSequence) else f"row {sequence.id}"
