"""A fake annotation API of either generation, as strict as the real one."""

import json
from datetime import datetime
from typing import Any

from aiohttp import web

from headrace.batch.platform.boxes import Box, ClusteredBox, ClusterRule, Generation, cluster
from tests.batch.platform.alert_server import PAGE_ROWS_MAX, picture
from tests.batch.platform.api_server import ApiServer

THRESHOLDS = ("confidence_threshold", "iou_threshold", "min_cluster_size")


def _has_one_box_a_detection(annotation: dict[str, Any]) -> bool:
    tracks = [[box["detection_id"] for box in track["bboxes"]] for track in annotation["sequences_bbox"]]
    return all(len(track) == len(set(track)) for track in tracks)


def _checked(text: str) -> list[Any]:
    predictions = json.loads(text)["predictions"]
    for prediction in predictions:
        x1, y1, x2, y2 = prediction["xyxyn"]
        if not (
            0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and 0 <= prediction["confidence"] <= 1 and prediction["class_name"]
        ):
            raise web.HTTPUnprocessableEntity(text=json.dumps({"detail": "box"}), content_type="application/json")
    assert isinstance(predictions, list)
    return predictions


class AnnotationServer(ApiServer):
    """The annotation API; only the second generation has a key for detections."""

    def __init__(self, generation: Generation) -> None:
        super().__init__(generation)
        self.sequences: dict[int, dict[str, Any]] = {}
        self.detections: dict[int, dict[str, Any]] = {}
        self.annotations: dict[int, dict[str, Any]] = {}
        self.last_ids: dict[int, int] = {}
        self.changes = 0
        self.parked: set[tuple[str, int]] = set()
        self.fetched: list[str] = []  # keys and URLs of images that it was told to fetch
        self.uploads_fail = 0  # so many
        self.lost_images: set[str] = set()  # keys
        self.labels_have_names = True  # before they had, a label was yes or no

    def content(self) -> dict[int, Any]:
        """What a person would see, by the platform's ids."""
        seen: dict[int, Any] = {}
        for number, item in self.sequences.items():
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
            assert item["alert_api_id"] not in seen
            keys = [row["bucket_key"] for row in self.detections.values() if row["sequence_id"] == number]
            assert all(keys)
            assert not self.lost_images & set(keys)
            seen[item["alert_api_id"]] = (sorted(alert_ids.values()), tracks)
        return seen

    def routes(self) -> list[web.RouteDef]:
        v1 = "/api/v1"
        second = [
            web.patch(f"{v1}/sequences/temporal-score", self._change_score),
            web.post(f"{v1}/sequences/alert/skip", self._park),
            web.post(f"{v1}/detections/from-bucket-key", self._create_from),
            web.post(f"{v1}/detections/from-url", self._create_from),
        ]
        return [
            *(second if self.generation is Generation.SECOND else []),
            web.get(f"{v1}/openapi.json", self._schema),
            web.post(f"{v1}/auth/login", self._login),
            web.post(f"{v1}/sequences/", self._create_sequence),
            web.get(f"{v1}/sequences/", self._sequences),
            web.post(f"{v1}/detections/", self._create_detection),
            web.get(f"{v1}/detections/", self._detections),
            web.get(f"{v1}/detections/{{id}}/url", self._url),
            web.delete(f"{v1}/detections/{{id}}", self._delete_detection),
            web.delete(f"{v1}/sequences/{{id}}", self._delete_sequence),
            web.post(f"{v1}/annotations/sequences/", self._create_annotation),
            web.get(f"{v1}/annotations/sequences/", self._annotations),
            web.patch(f"{v1}/annotations/sequences/{{id}}", self._change_annotation),
            web.delete(f"{v1}/annotations/sequences/{{id}}", self._delete_annotation),
        ]

    async def _schema(self, _request: web.Request) -> web.Response:
        paths: dict[str, Any] = {route.path: {} for route in self.routes()}
        return web.json_response({"openapi": "3.1.0", "paths": paths})

    async def _change_score(self, request: web.Request) -> web.Response:
        body = await request.json()
        names = ("temporal_model_score", "temporal_model_version", "temporal_api_version")
        for row in self.sequences.values():
            if (row["alert_api_id"], row["source_api"]) == (body["alert_api_id"], body["source_api"]):
                row |= {name: body[name] for name in names}
                return web.json_response(row)
        return web.json_response({"detail": "No sequence"}, status=404)

    async def _park(self, request: web.Request) -> web.Response:
        body = await request.json()
        alert = body["source_api"], body["platform_alert_id"]
        rows = [row for row in self.sequences.values() if (row["source_api"], row["platform_alert_id"]) == alert]
        if not rows:
            return web.json_response({"detail": "Alert not found"}, status=404)
        if alert in self.parked:
            return web.json_response({"detail": "Alert is already skipped"}, status=409)
        self.parked.add(alert)
        return web.json_response(body, status=201)

    async def _create_from(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.fetched.append(body.get("source_key") or body["source_url"])
        row = {name: body[name] for name in ("alert_api_id", "sequence_id", "recorded_at", "algo_predictions")}
        others = body.get("others_bboxes")
        for predictions in filter(None, (row["algo_predictions"], others)):
            _checked(json.dumps(predictions))
        content = picture(row["alert_api_id"]).decode("latin1")
        return self._add_detection(row | {"others_bboxes": others, "body": content})

    async def _login(self, request: web.Request) -> web.Response:
        output = await request.json()
        return self.log_in(output.get("username"), output.get("password"))

    def _created(self, rows: dict[int, dict[str, Any]], row: dict[str, Any]) -> web.Response:
        self.changes += 1
        self.last_ids[id(rows)] = number = self.last_ids.get(id(rows), 1000) + 1
        rows[number] = row | {"id": number}
        return web.json_response(rows[number], status=201)

    async def _create_sequence(self, request: web.Request) -> web.Response:
        form = {name: str(value) for name, value in (await request.post()).items()}
        row: dict[str, Any] = form | {
            name: int(form[name]) for name in ("alert_api_id", "camera_id", "organisation_id")
        }
        row["platform_alert_id"] = int(form.get("platform_alert_id", form["alert_api_id"]))
        assert 0 <= int(form["azimuth"]) < 360
        datetime.fromisoformat(form["recorded_at"])
        labels = ("wildfire_smoke", "other_smoke", "other") if self.labels_have_names else ("true", "false")
        if form.get("is_wildfire_alertapi", labels[0]) not in labels:
            return web.json_response({"detail": [{"loc": ["body", "is_wildfire_alertapi"]}]}, status=422)
        assert form["source_api"] in {"pyronear_french", "alert_wildfire", "api_cenia"}
        if any(sequence["alert_api_id"] == row["alert_api_id"] for sequence in self.sequences.values()):
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
        return self._add_detection(row)

    def _add_detection(self, row: dict[str, Any]) -> web.Response:
        key = row["sequence_id"], row["alert_api_id"]
        keys = {(detection["sequence_id"], detection["alert_api_id"]) for detection in self.detections.values()}
        if self.generation is Generation.SECOND and key in keys:
            return web.json_response({"detail": "Resource already exists"}, status=409)
        if self.uploads_fail:
            self.uploads_fail -= 1
            if self.generation is Generation.FIRST:
                self._created(self.detections, row | {"bucket_key": ""})  # committed before the upload
            return web.Response(status=500, text="Internal Server Error")
        return self._created(self.detections, row | {"bucket_key": f"detections/{row['alert_api_id']}"})

    async def _url(self, request: web.Request) -> web.Response:
        key = self.detections[int(request.match_info["id"])]["bucket_key"]
        if not key:
            return web.Response(status=500, text="Internal Server Error")
        if key in self.lost_images:
            return web.json_response({"detail": "File cannot be found on the bucket storage"}, status=404)
        return web.json_response({"url": f"{self.url}/{key}"})

    async def _delete_detection(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        if not self.detections[number]["bucket_key"]:
            return web.Response(status=500, text="Internal Server Error")  # the S3 client refuses an empty key
        self.lost_images.discard(self.detections.pop(number)["bucket_key"])
        return web.Response(status=204)

    async def _delete_sequence(self, request: web.Request) -> web.Response:
        number = int(request.match_info["id"])
        if self.generation is Generation.SECOND and request.query.get("force") != "true":
            return web.json_response({"detail": "Only manually added objects can be removed."}, status=409)
        self.sequences.pop(number)
        for rows in (self.detections, self.annotations):
            for key in [key for key, row in rows.items() if row["sequence_id"] == number]:
                del rows[key]
        return web.Response(status=204)

    async def _create_annotation(self, request: web.Request) -> web.Response:
        row = await request.json()
        assert row["sequence_id"] in self.sequences
        if self.generation is Generation.SECOND and not _has_one_box_a_detection(row["annotation"]):
            return web.json_response({"detail": "At most one box is allowed per detection"}, status=422)
        if any(annotation["sequence_id"] == row["sequence_id"] for annotation in self.annotations.values()):
            return web.json_response({"detail": "Resource already exists"}, status=409)
        self._generate(row, row["sequence_id"], *(row.pop(name, None) for name in THRESHOLDS))
        return self._created(self.annotations, row)

    def _generate(self, row: dict[str, Any], sequence_id: int, *thresholds: float | None) -> None:
        """Cluster where the tracks are empty, by the given thresholds or the server's own."""
        if row["processing_stage"] != "ready_to_annotate" or row["annotation"]["sequences_bbox"]:
            return
        default = 0.3 if self.generation is Generation.FIRST else 0.0
        confidence, overlap, size = thresholds
        rule = ClusterRule(confidence or 0.0, overlap or default, int(size or 1))
        boxes = [
            ClusteredBox(number, Box(*map(float, [*prediction["xyxyn"], prediction["confidence"]])))
            for number, detection in self.detections.items()
            if detection["sequence_id"] == sequence_id
            for prediction in detection["algo_predictions"]["predictions"]
        ]
        row["annotation"]["sequences_bbox"] = [
            {
                "is_smoke": True,
                "false_positive_types": [],
                "bboxes": [{"detection_id": box.detection_id, "xyxyn": box.box.xyxyn} for box in members],
            }
            for members in cluster(boxes, rule, self.generation)
        ]

    async def _change_annotation(self, request: web.Request) -> web.Response:
        changes = await request.json()
        if set(THRESHOLDS) & set(changes):
            return web.Response(status=500, text="Internal Server Error")  # it sets fields that its table lacks
        self.changes += 1
        row = self.annotations[int(request.match_info["id"])]
        row |= changes
        self._generate(row, row["sequence_id"], None, None, None)
        return web.json_response(row)

    async def _delete_annotation(self, request: web.Request) -> web.Response:
        self.changes += 1
        del self.annotations[int(request.match_info["id"])]
        return web.Response(status=204)

    async def _sequences(self, request: web.Request) -> web.Response:
        begin, end = request.query.get("recorded_at_gte", ""), request.query.get("recorded_at_lte", "9")
        return self._page(
            request, [sequence for sequence in self.sequences.values() if begin <= sequence["recorded_at"] <= end]
        )

    async def _detections(self, request: web.Request) -> web.Response:
        wanted = int(request.query["sequence_id"])
        return self._page(
            request, [detection for detection in self.detections.values() if detection["sequence_id"] == wanted]
        )

    async def _annotations(self, request: web.Request) -> web.Response:
        wanted = int(request.query["sequence_id"])
        return self._page(
            request, [annotation for annotation in self.annotations.values() if annotation["sequence_id"] == wanted]
        )

    def _page(self, request: web.Request, rows: list[dict[str, Any]]) -> web.Response:
        number, size = int(request.query["page"]), int(request.query["size"])
        assert size <= 100
        size = min(size, PAGE_ROWS_MAX)
        pages = -(-len(rows) // size)
        items = rows[(number - 1) * size : number * size]
        return web.json_response({"items": items, "page": number, "pages": pages, "size": size, "total": len(rows)})
