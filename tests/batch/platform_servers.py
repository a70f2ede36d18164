"""Servers of both APIs, of either generation, on loopback: strict where the real ones are, with faults on request."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from headrace.batch.platform.clusters import Generation
from tests.waiting import until

LOGINS = {"reader": "reader-secret", "boss": "boss-secret", "admin": "admin12345"}
WHO = web.RequestKey("who", str)
PAGE_ROWS_MAX = 7  # fewer than anybody asks for: pages are many
FIRST_DAY = datetime.fromisoformat("2026-01-10")  # UTC, unsaid, as both APIs write it
DAYS = 3
SEQUENCES = 30


@dataclass
class Fault:
    """What happens to the next `times` requests whose method and path begin so, but for the first `after`.

    `do` is a status, or: `lost`, the work is done and the connection dropped; `stall`, no answer; `html`, a page that
    somebody on the way made; `redirect`, to where it was asked; `endless`, a body without an end; `cut`, half of one.
    """

    begins: str
    do: int | str
    times: int = 1
    after: int = 0


@dataclass
class Server:
    """One API: what it was asked, and what is to go wrong."""

    generation: Generation
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    logins: list[str] = field(default_factory=list)
    url: str = ""

    def number_of(self, begins: str) -> int:
        return sum(one.startswith(begins) for one in self.asked)

    def expire(self) -> None:
        self.tokens.clear()

    def log_in(self, name: str | None, password: str | None) -> web.Response:
        if LOGINS.get(name or "") != password:
            return web.json_response({"detail": "Invalid credentials."}, status=401)
        self.logins.append(str(name))
        token = f"token-{len(self.logins)}"
        self.tokens[token] = str(name)
        return web.json_response({"access_token": token, "token_type": "bearer"})

    def application(self) -> web.Application:
        @web.middleware
        async def around(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
            line = f"{request.method} {request.path.removeprefix('/api/v1')}"
            self.asked.append(line)
            due = self._due(f"{line}?{request.query.get('from_date', '')}")
            if isinstance(due, int):
                return web.json_response({"detail": "as the test wants it"}, status=due)
            if due == "stall":
                await asyncio.sleep(30)
            if due == "html":
                return web.Response(text="<!DOCTYPE html>\n<p>Sign in", content_type="text/html")
            if due == "redirect":
                raise web.HTTPFound(request.url)
            if due == "endless":
                return await _endless(request)
            if not request.path.startswith(("/bucket", "/api/v1/login/creds", "/api/v1/auth/login")):
                token = request.headers.get("Authorization", "").removeprefix("Bearer ")
                if token not in self.tokens:
                    return web.json_response({"detail": "Could not validate credentials"}, status=401)
                request[WHO] = self.tokens[token]
            answer: web.StreamResponse = await handler(request)
            if due == "cut":
                assert isinstance(answer, web.Response)
                assert isinstance(answer.body, bytes)
                return web.Response(body=answer.body[: len(answer.body) // 2], content_type=answer.content_type)
            if due == "lost":
                assert request.transport is not None
                request.transport.abort()
            return answer

        application = web.Application(middlewares=[around])
        application.add_routes(self.routes())
        return application

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    def _due(self, line: str) -> int | str | None:
        for fault in self.faults:
            if fault.times and line.startswith(fault.begins):
                if fault.after:
                    fault.after -= 1
                    continue
                fault.times -= 1
                return fault.do
        return None


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    while True:
        await answer.write(b"[" * 1024 * 1024)


def picture(number: int) -> bytes:
    """The header of a PNG of 4 by 3 pixels, and bytes that differ."""
    return (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
        + (4).to_bytes(4, "big")
        + (3).to_bytes(4, "big")
        + bytes([8, 2, 0, 0, 0])
        + b"%d" % number
    )


class PlatformServer(Server):
    """The platform: 30 sequences over three days, 3 detections each, some with boxes that are none."""

    def __init__(self, generation: Generation) -> None:
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
        self.picture_s = 0.0  # that each picture takes
        for number in range(1, SEQUENCES + 1):
            self.add(number, FIRST_DAY + timedelta(days=(number - 1) * DAYS // SEQUENCES, minutes=number))

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
            boxes = {"bbox": f"[{good}{bad}]", "others_bboxes": f"[{away}]", "pose_id": 5, "recorded_at": None}
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
        return web.json_response([one for one in self.cameras if every or one["is_trustable"]])

    async def _camera(self, request: web.Request) -> web.Response:
        found = [one for one in self.cameras if one["id"] == int(request.match_info["id"])]
        return web.json_response(
            found[0] if found else {"detail": "Table Camera has no entry"}, status=200 if found else 404
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
                one
                for one in self.sequences
                if str(one["started_at"]).startswith(day) and (is_whole or one["id"] not in self.unlikely)
            ),
            key=lambda one: str(one["started_at"]),
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
            self.detections[int(request.match_info["id"])], key=lambda one: one["created_at"], reverse=newest_first
        )
        offset = int(request.query.get("offset", 0)) if self.generation is Generation.SECOND else 0
        return web.json_response([one | {"url": self._address(one["id"])} for one in rows[offset : offset + limit]])

    async def _url(self, request: web.Request) -> web.Response:
        return web.json_response({"url": self._address(int(request.match_info["id"]))})

    def _address(self, number: int) -> str | None:
        if number in self.addresses:
            return self.addresses[number]
        return f"{self.url}/bucket/{number}?X-Amz-Signature=canary%2Fsignature"

    async def _picture(self, request: web.Request) -> web.Response:
        assert "Authorization" not in request.headers, "a store was shown the platform's token"
        assert request.raw_path.endswith("?X-Amz-Signature=canary%2Fsignature"), "what is signed was written anew"
        await asyncio.sleep(self.picture_s)
        return web.Response(body=picture(int(request.match_info["id"])), content_type="image/png")


def _checked(text: str) -> list[Any]:
    predictions = json.loads(text)["predictions"]
    for one in predictions:
        x1, y1, x2, y2 = one["xyxyn"]
        if not (0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and 0 <= one["confidence"] <= 1 and one["class_name"]):
            raise web.HTTPUnprocessableEntity(text=json.dumps({"detail": "box"}), content_type="application/json")
    assert isinstance(predictions, list)
    return predictions


class AnnotationServer(Server):
    """The annotation API; only the second generation has a key for detections."""

    def __init__(self, generation: Generation) -> None:
        super().__init__(generation)
        self.sequences: dict[int, dict[str, Any]] = {}
        self.detections: dict[int, dict[str, Any]] = {}
        self.annotations: dict[int, dict[str, Any]] = {}
        self.changes = 0
        self.labels_have_names = True  # before they had, a label was yes or no

    def content(self) -> dict[int, Any]:
        """What a person would see, by the platform's ids."""
        seen: dict[int, Any] = {}
        for number, one in self.sequences.items():
            alert_ids = {
                key: row["alert_api_id"] for key, row in self.detections.items() if row["sequence_id"] == number
            }
            tracks: list[Any] = []
            for row in self.annotations.values():
                if row["sequence_id"] == number:
                    tracks += [
                        [(alert_ids[box["detection_id"]], *box["xyxyn"]) for box in track["bboxes"]]
                        for track in row["annotation"]["sequences_bbox"]
                    ]
                    tracks.append(row["processing_stage"])
            assert one["alert_api_id"] not in seen
            seen[one["alert_api_id"]] = (sorted(alert_ids.values()), tracks)
        return seen

    def routes(self) -> list[web.RouteDef]:
        v1 = "/api/v1"
        return [
            web.post(f"{v1}/auth/login", self._login),
            web.post(f"{v1}/sequences/", self._create_sequence),
            web.get(f"{v1}/sequences/", self._sequences),
            web.post(f"{v1}/detections/", self._create_detection),
            web.get(f"{v1}/detections/", self._detections),
            web.post(f"{v1}/annotations/sequences/", self._create_annotation),
            web.get(f"{v1}/annotations/sequences/", self._annotations),
            web.patch(f"{v1}/annotations/sequences/{{id}}", self._change_annotation),
        ]

    async def _login(self, request: web.Request) -> web.Response:
        said = await request.json()
        return self.log_in(said.get("username"), said.get("password"))

    def _created(self, rows: dict[int, dict[str, Any]], row: dict[str, Any]) -> web.Response:
        self.changes += 1
        rows[len(rows) + 1001] = row | {"id": len(rows) + 1001}
        return web.json_response(row | {"id": len(rows) + 1000}, status=201)

    async def _create_sequence(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        row: dict[str, Any] = form | {
            name: int(form[name]) for name in ("alert_api_id", "camera_id", "organisation_id")
        }
        assert 0 <= int(form["azimuth"]) < 360
        datetime.fromisoformat(form["recorded_at"])
        labels = ("wildfire_smoke", "other_smoke", "other") if self.labels_have_names else ("true", "false")
        if form.get("is_wildfire_alertapi", labels[0]) not in labels:
            return web.json_response({"detail": [{"loc": ["body", "is_wildfire_alertapi"]}]}, status=422)
        assert form["source_api"] in {"pyronear_french", "alert_wildfire", "api_cenia"}
        if any(one["alert_api_id"] == row["alert_api_id"] for one in self.sequences.values()):
            return web.json_response({"detail": "Resource already exists"}, status=409)
        return self._created(self.sequences, row)

    async def _create_detection(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        row: dict[str, Any] = {
            "alert_api_id": int(str(form["alert_api_id"])),
            "sequence_id": int(str(form["sequence_id"])),
            "recorded_at": str(form["recorded_at"]),
            "body": file.file.read().decode("latin1"),
            "algo_predictions": {"predictions": _checked(str(form["algo_predictions"]))},
        }
        if self.generation is Generation.SECOND:
            row["others_bboxes"] = (
                {"predictions": _checked(str(form["others_bboxes"]))} if "others_bboxes" in form else None
            )
        assert row["sequence_id"] in self.sequences
        assert row["body"].encode("latin1") == picture(row["alert_api_id"])
        key = row["sequence_id"], row["alert_api_id"]
        keys = {(one["sequence_id"], one["alert_api_id"]) for one in self.detections.values()}
        if self.generation is Generation.SECOND and key in keys:
            return web.json_response({"detail": "Resource already exists"}, status=409)
        return self._created(self.detections, row)

    async def _create_annotation(self, request: web.Request) -> web.Response:
        row = await request.json()
        assert row["sequence_id"] in self.sequences
        if any(one["sequence_id"] == row["sequence_id"] for one in self.annotations.values()):
            return web.json_response({"detail": "Resource already exists"}, status=409)
        return self._created(self.annotations, row)

    async def _change_annotation(self, request: web.Request) -> web.Response:
        self.changes += 1
        row = self.annotations[int(request.match_info["id"])]
        row |= await request.json()
        return web.json_response(row)

    async def _sequences(self, request: web.Request) -> web.Response:
        begin, end = request.query.get("recorded_at_gte", ""), request.query.get("recorded_at_lte", "9")
        return self._page(request, [one for one in self.sequences.values() if begin <= one["recorded_at"] <= end])

    async def _detections(self, request: web.Request) -> web.Response:
        wanted = int(request.query["sequence_id"])
        return self._page(request, [one for one in self.detections.values() if one["sequence_id"] == wanted])

    async def _annotations(self, request: web.Request) -> web.Response:
        wanted = int(request.query["sequence_id"])
        return self._page(request, [one for one in self.annotations.values() if one["sequence_id"] == wanted])

    def _page(self, request: web.Request, rows: list[dict[str, Any]]) -> web.Response:
        number, size = int(request.query["page"]), int(request.query["size"])
        assert size <= 100
        size = min(size, PAGE_ROWS_MAX)
        pages = -(-len(rows) // size)
        items = rows[(number - 1) * size : number * size]
        return web.json_response({"items": items, "page": number, "pages": pages, "size": size, "total": len(rows)})


@contextmanager
def served(*servers: Server) -> Iterator[None]:
    """Serve each on a port of its own, in a thread, so that commands and other processes can be their clients."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    runners = [
        web.AppRunner(one.application(), access_log=None, shutdown_timeout=0, handler_cancellation=True)
        for one in servers
    ]

    async def start() -> None:
        for one, runner in zip(servers, runners, strict=True):
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert runner.addresses
            one.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            assert urlsplit(one.url).port

    async def stop() -> None:
        for runner in runners:
            await runner.cleanup()

    asyncio.run_coroutine_threadsafe(start(), loop).result(20)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(20)
        loop.call_soon_threadsafe(loop.stop)
        until(lambda: not loop.is_running(), 20, "the servers to end")
        thread.join()
        loop.close()
