"""Configurations of cameras in requests and responses."""

import re
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
)

from headrace.gateway.credential_filter import refuse_credentials
from headrace.gateway.problems import Problem, ProblemCode
from headrace.gateway.queries.parameters import Name
from headrace.schemas.headers import rfc3339
from headrace.schemas.json_guard import check_keepable, check_values, parse_object
from headrace.schemas.limits import FRAME_SIDE_PIXELS_MAX, KIB, NAME_BYTES_MAX
from headrace.schemas.validate import UNSHOWABLE
from headrace.store.requests.cameras import CameraRow

CONFIGURATION_BYTES_MAX = 64 * KIB
VALUES_MAX = 5000  # of a configuration
URL_CHARACTERS_MAX = 2048
FPS_MAX = 240
_SECRET_PARAMETERS = frozenset({"password", "passwd", "pwd", "pass", "token", "secret", "auth"})
_HINT = "a camera's credentials belong into the capture request, which encrypts them"


def _rtsp_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("is not a URL") from None
    if parts.scheme not in {"rtsp", "rtsps"} or not parts.hostname or re.search(r"\s", url) or UNSHOWABLE.search(url):
        raise ValueError("must be rtsp://host[:port]/path or rtsps://…, without spaces")
    # The '@' after a password with a '/' is part of the path.
    if "@" in url:
        raise ValueError(f"holds credentials (or an @ that must be written %40): {_HINT}")
    if not _SECRET_PARAMETERS.isdisjoint(name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)):
        raise ValueError(f"holds a password: {_HINT}")
    return url


def _number(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic reports the text of a ValueError
    return value


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be a string with a time and its zone")  # noqa: TRY004
    return value


M = TypeVar("M", bound=BaseModel)

_FINITE = Field(allow_inf_nan=False)

Number = Annotated[float, _FINITE, BeforeValidator(_number)]
Row = Annotated[list[Number], Field(min_length=3, max_length=3)]
PixelCount = Annotated[int, Field(ge=1, le=FRAME_SIDE_PIXELS_MAX, strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Resolution(_Strict):
    """The resolution in pixels."""

    width: PixelCount = Field(examples=[1920])
    height: PixelCount = Field(examples=[1080])


class CameraSettings(_Strict):
    """The settings of a camera; a capture uses its defaults for those that are missing."""

    fps: Annotated[float, _FINITE, Field(gt=0, le=FPS_MAX), BeforeValidator(_number)] | None = Field(None, examples=[5])
    jpeg_quality: int | None = Field(None, ge=1, le=100, strict=True, examples=[90])
    resolution: Resolution | None = None
    rtsp_url: Annotated[str, Field(max_length=URL_CHARACTERS_MAX), AfterValidator(_rtsp_url)] | None = Field(
        None, description="The URL without credentials.", examples=["rtsp://10.0.0.7:554/stream1"]
    )
    extra: dict[str, JsonValue] = Field(default_factory=dict, description="Further settings; no passwords.")


class Calibration(_Strict):
    """A calibration: the pinhole camera model with distortion, as in OpenCV."""

    camera_matrix: list[Row] = Field(
        min_length=3, max_length=3, examples=[[[1000.0, 0, 960], [0, 1000.0, 540], [0, 0, 1]]]
    )
    distortion_coefficients: list[Number] = Field(
        min_length=4, max_length=14, description="k1, k2, p1, p2, k3 …", examples=[[-0.3, 0.1, 0, 0, 0]]
    )
    image_width: PixelCount = Field(description="Width of the calibration images.", examples=[1920])
    image_height: PixelCount = Field(examples=[1080])
    reprojection_error: Annotated[float, _FINITE, Field(ge=0), BeforeValidator(_number)] | None = Field(
        None, description="Root mean square error in pixels."
    )
    calibrated_at: Annotated[AwareDatetime, BeforeValidator(_text)] | None = None


class Configuration(_Strict):
    """The configuration of a camera."""

    settings: CameraSettings = Field(default_factory=CameraSettings)
    calibration: Calibration | None = None


class NewCamera(Configuration):
    """A new configuration; without a site, at the principal's own, or the gateway's."""

    camera_id: Name = Field(max_length=NAME_BYTES_MAX, examples=["camera-1"])
    site: Annotated[Name, Field(max_length=NAME_BYTES_MAX)] | None = Field(None, examples=["plant-a"])


class CameraShown(BaseModel):
    """The configuration of a camera; `version` counts its changes, and is its ETag."""

    site: str
    camera_id: str
    settings: dict[str, Any]
    calibration: dict[str, Any] | None
    version: int
    created_at: str
    updated_at: str


class CameraPage(BaseModel):
    """A page of cameras, by site and id."""

    cameras: list[CameraShown]
    cursor: str | None = Field(description="The cursor of the next page; null on the last one.")


async def read_new(request: Request) -> NewCamera:
    """Return the new camera in a request's body; raises as `read_configuration`."""
    return _checked(NewCamera, await _body(request))


async def read_configuration(request: Request) -> Configuration:
    """Return the configuration in a request's body.

    Raises:
        Problem: the body is not JSON (415), too large (413), or holds credentials (422).
        RejectedError: the JSON is malformed or nested too deeply.
        RequestValidationError: a field is invalid.
    """
    return _checked(Configuration, await _body(request))


def stored_json(configuration: Configuration) -> tuple[str, str | None]:
    """Return the settings and the calibration as JSON texts."""
    calibration = configuration.calibration
    return (
        configuration.settings.model_dump_json(exclude_unset=True),
        None if calibration is None else calibration.model_dump_json(exclude_unset=True),
    )


def camera_fields(camera: CameraRow) -> dict[str, Any]:
    """Return a camera as the fields of a response."""
    return {
        "site": camera.site,
        "camera_id": camera.camera_id,
        "settings": orjson.loads(camera.settings),
        "calibration": None if camera.calibration is None else orjson.loads(camera.calibration),
        "version": camera.version,
        "created_at": rfc3339(camera.created_at_us),
        "updated_at": rfc3339(camera.updated_at_us),
    }


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that the route parses itself."""
    schema = model.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _body(request: Request) -> bytes:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, ProblemCode.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
    body = await request.body()
    if len(body) > CONFIGURATION_BYTES_MAX:
        raise Problem(413, ProblemCode.TOO_LARGE, f"the limit of a configuration is {CONFIGURATION_BYTES_MAX} bytes")
    return body


def _checked(model: type[M], body: bytes) -> M:
    check_values(body, "the body", VALUES_MAX)
    parsed = parse_object(body, "the body")
    check_keepable(body, "the body")
    refuse_credentials(parsed, "the body")
    try:
        return model.model_validate(parsed)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_context=False, include_input=False)
        raise RequestValidationError([{**entry, "loc": ("body", *entry["loc"])} for entry in errors]) from None


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """Replace references by their definitions, which OpenAPI has elsewhere."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inlined(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
        return {name: _inlined(value, definitions) for name, value in node.items()}
    return [_inlined(item, definitions) for item in node] if isinstance(node, list) else node
