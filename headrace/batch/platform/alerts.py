"""The platform's API: who saw what, where and when."""

from datetime import date

from headrace.batch.platform.api import Api, PlatformApiError
from headrace.batch.platform.entities import AlertSequence, Detection, Organisation, PlatformCamera, Unread, pictures
from headrace.batch.platform.paging import PAGE_ROWS, PASSES_MAX, Read, Reading, after_page

DETECTION_ROWS_MAX = 100  # that the platform gives at a time
SEQUENCES_MAX = 100_000  # of one day: a list that is longer has no end
# The second generation leaves out what it holds for unlikely on a day without much danger of fire, so that its list of
# such a day would not be whole. Of the class that is named here it leaves nothing out. The first generation ignores it.
_RISK = "extreme"
_GONE = frozenset({400, 403, 404, 410})  # what a store answers where a signed address has ended


class Alerts:
    """Reads as the regular user; organisations are shown to the admin only."""

    def __init__(self, api: Api, admin: Api) -> None:
        self._api = api
        self._admin = admin
        self._cameras: dict[int, PlatformCamera] = {}
        self._organisations: dict[int, Organisation] = {}

    async def open(self) -> None:
        """Log in, and read cameras and organisations."""
        await self._api.log_in()
        await self._admin.log_in()
        # One that is not as it should be is asked for again where it is needed, and is named there.
        cameras = await self._api.rows("/cameras/", PlatformCamera, include_non_trustable="true")
        self._cameras = {one.id: one for one in cameras if not isinstance(one, Unread)}
        organisations = await self._admin.rows("/organizations/", Organisation)
        self._organisations = {one.id: one for one in organisations if not isinstance(one, Unread)}

    async def sequences_of(self, day: date) -> list[AlertSequence | Unread]:
        """Return all sequences that began on a day.

        Raises:
            HeadraceError: not the whole list could be read.
        """
        found: dict[int, AlertSequence | Unread] = {}
        reading = Reading()
        while len(found) <= SEQUENCES_MAX:
            page = await self._api.rows(
                "/sequences/all/fromdate",
                AlertSequence,
                from_date=day.isoformat(),
                limit=PAGE_ROWS,
                offset=reading.offset,
                risk_score=_RISK,
            )
            found |= {sequence.id: sequence for sequence in page}
            going = after_page(reading, [sequence.id for sequence in page])
            match going:
                case Read():
                    return list(found.values())
                case Reading():
                    reading = going
                case _:
                    raise PlatformApiError(
                        self._api.url, f"the list of {day} changed during each of {PASSES_MAX} passes"
                    )
        raise PlatformApiError(self._api.url, f"the list of {day} has more than {SEQUENCES_MAX} sequences")

    async def detections_of(self, sequence_id: int, *, pictures_max: int, newest_first: bool) -> list[Detection]:
        """Return a sequence's first or last pictures, at most so many, in the order of their creation."""
        found: dict[int, Detection] = {}
        whole: list[Detection] = []
        while len(whole) <= pictures_max:  # of the last picture there may be more rows
            # The first generation knows no offset: it is only named where it is needed.
            more = {"offset": len(found)} if found else {}
            page = await self._api.get(
                f"/sequences/{sequence_id}/detections",
                list[Detection],
                limit=DETECTION_ROWS_MAX,
                desc=str(newest_first).lower(),
                **more,
            )
            before = len(found)
            found |= {one.id: one for one in page if one.id not in found}
            whole = pictures(found.values())
            if len(page) < DETECTION_ROWS_MAX or len(found) == before:
                break
        return sorted(whole[:pictures_max], key=lambda one: (one.created_at, one.id))

    async def camera(self, camera_id: int) -> PlatformCamera:
        """Return a camera."""
        if camera_id not in self._cameras:
            self._cameras[camera_id] = await self._api.get(f"/cameras/{camera_id}", PlatformCamera)
        return self._cameras[camera_id]

    async def organisation(self, organisation_id: int) -> Organisation:
        """Return an organisation."""
        if organisation_id not in self._organisations:
            found = await self._admin.get(f"/organizations/{organisation_id}", Organisation)
            self._organisations[organisation_id] = found
        return self._organisations[organisation_id]

    async def picture(self, detection: Detection) -> bytes:
        """Return a detection's picture; an address that has ended is asked for again, once."""
        if detection.url:
            try:
                return await self._api.picture(detection.url)
            except PlatformApiError as fault:
                if fault.status not in _GONE:
                    raise
        answer = await self._api.get(f"/detections/{detection.id}/url", dict[str, str | None])
        url = answer.get("url")
        if not url:
            raise PlatformApiError(self._api.url, f"the platform names no picture of detection {detection.id}")
        return await self._api.picture(url)
