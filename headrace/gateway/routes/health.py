"""Liveness, readiness and metrics, without authentication and without secrets."""

import asyncio

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from headrace.gateway.deps import ProbesDep

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The gateway is alive."""

    status: str = Field("ok", examples=["ok"])


class Readiness(BaseModel):
    """The state of each service that the gateway needs: `ok`, or the failure."""

    status: str = Field(examples=["ready"])
    needs: dict[str, str] = Field(examples=[{"kafka": "ok", "postgres": "ok", "store": "ok", "redis": "ok"}])


@router.get("/health", openapi_extra={"security": []})
async def health() -> Health:
    """Return that the gateway is alive; services may be unavailable."""
    return Health(status="ok")


@router.get(
    "/ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "A service is unavailable."}},
    openapi_extra={"security": []},
)
async def ready(probes: ProbesDep) -> JSONResponse:
    """Return whether all services are available."""
    needs = probes.readyz()
    is_ready = all(fault is None for fault in needs.values())
    body = Readiness(
        status="ready" if is_ready else "not ready", needs={name: fault or "ok" for name, fault in needs.items()}
    )
    return JSONResponse(body.model_dump(), 200 if is_ready else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    openapi_extra={"security": []},
)
async def metrics() -> Response:
    """Return the metrics in the Prometheus format."""
    return Response(await asyncio.to_thread(generate_latest), media_type=CONTENT_TYPE_LATEST)
