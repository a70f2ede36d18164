"""Liveness, readiness and metrics, without authentication and without secrets."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from headrace.gateway.deps import ProbesDep
from headrace.runtime.health import ReadyState

router = APIRouter(tags=["health"])


class HealthCheckResponse(BaseModel):
    """The gateway is alive."""

    status: str = Field("ok", examples=["ok"])


class Ready(BaseModel):
    """Whether the gateway takes requests, and each service: `ok`, or the failure.

    `degraded`: an optional service is unavailable, such as Redis. `draining`: the gateway stops.
    """

    status: ReadyState
    needs: dict[str, str] = Field(examples=[{"kafka": "ok", "postgres": "ok", "store": "ok", "redis": "ok"}])


@router.get("/health", openapi_extra={"security": []})
async def health() -> HealthCheckResponse:
    """Return that the gateway is alive; services may be unavailable."""
    return HealthCheckResponse(status="ok")


@router.get(
    "/ready",
    response_model=Ready,
    responses={503: {"model": Ready, "description": "A required service is unavailable, or the gateway stops."}},
    openapi_extra={"security": []},
)
async def ready(probes: ProbesDep) -> JSONResponse:
    """Return whether all required services are available."""
    readiness = probes.readyz()
    body = Ready(status=readiness.state, needs=readiness.shown())
    return JSONResponse(body.model_dump(), 200 if readiness.is_ready else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra={"security": []},
)
async def metrics() -> Response:
    """Return the metrics in the Prometheus format."""
    return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)
