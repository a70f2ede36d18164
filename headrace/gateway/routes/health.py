"""Whether the gateway lives, whether it can work, and its metrics: for probes, without a key, and without secrets."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from headrace.gateway.deps import ProbesDep

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The gateway answers."""

    status: str = Field("ok", examples=["ok"])


class Readiness(BaseModel):
    """Whether each service that the gateway needs answers: `ok`, or why not."""

    status: str = Field(examples=["ready"])
    needs: dict[str, str] = Field(examples=[{"kafka": "ok", "postgres": "ok", "store": "ok", "redis": "ok"}])


@router.get("/health", openapi_extra={"security": []})
async def health() -> Health:
    """Say that the gateway lives; what it needs may still be away."""
    return Health(status="ok")


@router.get(
    "/ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "A needed service is away."}},
    openapi_extra={"security": []},
)
async def ready(probes: ProbesDep) -> JSONResponse:
    """Say whether the gateway can work."""
    needs = probes.readyz()
    good = all(fault is None for fault in needs.values())
    body = Readiness(status="ready" if good else "not ready", needs={name: why or "ok" for name, why in needs.items()})
    return JSONResponse(body.model_dump(), 200 if good else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra={"security": []},
)
async def metrics() -> Response:
    """Return the metrics, as Prometheus reads them."""
    return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)
