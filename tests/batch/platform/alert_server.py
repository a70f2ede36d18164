"""A fake alert API of either generation, as strict as the real one."""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from aiohttp import web

from headrace.batch.platform.boxes import Generation
from tests.batch.batch_samples import png
from tests.batch.platform.api_server import WHO, ApiServer

PAGE_ROWS_MAX = 4  # fewer than anybody asks for: pages are many
FIRST_DAY = datetime.fromisoformat("2026-01-10")  # UTC, unsaid, as both APIs write it
DAYS = 3
PER_DAY = 5
SEQUENCES = DAYS * PER_DAY


def picture(number: int) -> bytes:
    """A PNG of 4 by 3 pixels that no other number has."""
    return png(str(number))


def _gone() -> web.Response:
    return web.json_response({"detail": "File cannot be found on the bucket storage"}, status=404)


class PlatformServer(ApiServer):
    """The platform: sequences over three days, 3 detections each, some with boxes that are none."""

    def __init__(self, generation: Generation, sequences: int = SEQUENCES, *, has_siblings: bool = False) -> None:
        super().__init__(generation)
        self.organisations = [{"id": 1, "name": "SDIS 07", "telegram_id": None}, {"id": 2, "name": "SDIS 77"}]
        self.cameras = [
            {
                "id": number,
                "organization_id": 1 + number % 2,
                "name": f"tower-{number}",
                "lat": 44.5,
                "lon": 4.25 + number,
                "elevation": 900.0,
                "angle_of_view": 54.2,
                "is_trustable": number != 3,
                "last_image": None,
            }
            for number in (1, 2, 3)
        ]
        self.sequences: list[dict[str, Any]] = []
        self.detections: dict[int, list[dict[str, Any]]] = {}
        self.inserted: Callable[[], None] | None = None
        self.unlikely: set[int] = set()  # what the second generation leaves out unless it is told of a great danger
        self.addresses: dict[int, str | None] = {}  # of pictures, in place of the right ones
        self.has_siblings = has_siblings  # whether each image of the second generation shows another object
        self.lost: set[int] = set()  # detections whose images are gone
        self.picture_s = 0.0  # that each picture takes
        for number in range(1, sequences + 1):
            self.add(number, FIRST_DAY + timedelta(days=(number - 1) * DAYS // sequences, minutes=number))

    def add(self, number: int, started_at: datetime) -> None:
        looked = "azimuth" if self.generation is Generation.FIRST else "camera_azimuth"
        self.sequences.append(
            {
                "id": number,
                "camera_id": 1 + number % 3,
                "started_at": started_at.isoformat(),
                looked: 359.7 if number == 1 else 43.4,
                "last_seen_at": (started_at + timedelta(seconds=60)).isoformat(),
                "is_wildfire": [None, "wildfire_smoke", "other"][number % 3],
                **({"temporal_model_score": 0.42} if self.generation is Generation.SECOND else {}),
            }
        )
        self.detections[number] = [
            self._detection(number * 10 + index, started_at + timedelta(seconds=20 * index)) for index in range(3)
        ]

    def _detection(self, number: int, created_at: datetime) -> dict[str, Any]:
        step = number % 10 / 100
        good = f"({0.1 + step:.3f},0.1,{0.4 + step:.3f},0.5,0.{3 + number % 6})"
        away = "(0.700,0.700,0.900,0.900,0.8)"
        bad = ",(0.5,0.5,0.2,0.9,0.5)" if number % 40 == 0 else ""
        boxes: dict[str, Any] = {"azimuth": 43.4, "bboxes": f"[{good},{away}{bad}]"}
        if self.generation is Generation.SECOND:
            others = f"[{away}]" if self.has_siblings else "[]"
            boxes = {"bbox": f"[{good}{bad}]", "others_bboxes": others, "pose_id": 5, "recorded_at": None}
        return {
            "id": number,
            "camera_id": 1,
            "bucket_key": f"{number}.png",
            "created_at": created_at.isoformat(),
            **boxes,
        }

    def routes(self) -> list[web.RouteDef]:
        v1 = "/api/v1"
        return [
            web.post(f"{v1}/login/creds", self._login),
            web.get(f"{v1}/cameras/", self._cameras),
            web.get(f"{v1}/organizations/", self._organisations),
            web.get(f"{v1}/sequences/all/fromdate", self._listed),
            web.get(f"{v1}/sequences/{{id}}/detections", self._of_sequence),
            web.get(f"{v1}/cameras/{{id}}", self._camera),
            web.get(f"{v1}/detections/{{id}}/url", self._url),
            web.get("/bucket/{id}", self._picture),
        ]

    async def _login(self, request: web.Request) -> web.Response:
        form = await request.post()
        return self.log_in(str(form.get("username")), str(form.get("password")))

    async def _cameras(self, request: web.Request) -> web.Response:
        every = self.generation is Generation.FIRST or request.query.get("include_non_trustable") == "true"
        return web.json_response([camera for camera in self.cameras if every or camera["is_trustable"]])

    async def _camera(self, request: web.Request) -> web.Response:
        result = [camera for camera in self.cameras if camera["id"] == int(request.match_info["id"])]
        return web.json_response(
            result[0] if result else {"detail": "Table Camera has no entry"}, status=200 if result else 404
        )

    async def _organisations(self, request: web.Request) -> web.Response:
        if request[WHO] != "boss":
            return web.json_response({"detail": "Incompatible token scope."}, status=403)
        return web.json_response(self.organisations)

    async def _listed(self, request: web.Request) -> web.Response:
        day, offset = request.query["from_date"], int(request.query.get("offset", 0))
        is_whole = self.generation is Generation.FIRST or request.query.get("risk_score") == "extreme"
        rows = sorted(
            (
                sequence
                for sequence in self.sequences
                if str(sequence["started_at"]).startswith(day) and (is_whole or sequence["id"] not in self.unlikely)
            ),
            key=lambda item: str(item["started_at"]),
            reverse=True,
        )
        limit = min(int(request.query.get("limit", 15)), PAGE_ROWS_MAX)
        page = rows[offset : offset + limit]
        if self.inserted is not None and page:
            insert, self.inserted = self.inserted, None
            insert()
        return web.json_response(page)

    async def _of_sequence(self, request: web.Request) -> web.Response:
        limit = int(request.query.get("limit", 10))
        if not 1 <= limit <= 100:
            return web.json_response({"detail": "limit"}, status=422)
        newest_first = request.query.get("desc", "true") == "true"
        rows = sorted(
            self.detections[int(request.match_info["id"])], key=lambda item: item["created_at"], reverse=newest_first
        )
        offset = int(request.query.get("offset", 0)) if self.generation is Generation.SECOND else 0
        rows = rows[offset : offset + limit]
        if self.generation is Generation.FIRST and self.lost & {row["id"] for row in rows}:
            return _gone()  # it looks for each image before it signs its URL
        return web.json_response([row | {"url": self._address(row["id"])} for row in rows])

    async def _url(self, request: web.Request) -> web.Response:
        if int(request.match_info["id"]) in self.lost:
            return _gone()
        return web.json_response({"url": self._address(int(request.match_info["id"]))})

    def _address(self, number: int) -> str | None:
        if number in self.addresses:
            return self.addresses[number]
        return f"{self.url}/bucket/{number}?X-Amz-Signature=canary%2Fsignature"

    async def _picture(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers, "a store was shown the platform's token"
        assert request.raw_path.endswith("?X-Amz-Signature=canary%2Fsignature"), "what is signed was written anew"
        await asyncio.sleep(self.picture_s)
        if int(request.match_info["id"]) in self.lost:
            return web.Response(status=404, text="NoSuchKey")
        return web.Response(body=picture(int(request.match_info["id"])), content_type="image/png")
