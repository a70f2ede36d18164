"""The calls, by what they are about."""

from headrace.gateway.routes import (
    blobs,
    camera_service,
    cameras,
    files,
    health,
    ldos,
    live,
    receipts,
    records,
    registry,
    rtsp,
    tokens,
    uploads,
)

ROUTERS = (
    health.router,
    files.router,
    ldos.router,
    rtsp.router,
    camera_service.router,
    tokens.router,
    uploads.router,
    records.router,
    blobs.router,
    receipts.router,
    cameras.router,
    registry.router,
    live.router,
)

__all__ = ["ROUTERS"]
