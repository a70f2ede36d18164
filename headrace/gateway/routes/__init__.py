"""The routes, by resource."""

from headrace.gateway.routes import (
    blobs,
    cameras,
    dead_letters,
    file_uploads,
    health,
    ldos,
    live,
    records,
    registry,
    rtsp,
    tokens,
    uploads,
)

ROUTERS = (
    health.router,
    file_uploads.files_router,
    ldos.router,
    rtsp.router,
    file_uploads.router,
    tokens.router,
    uploads.router,
    records.router,
    records.transfers,
    blobs.router,
    blobs.receipts_router,
    cameras.router,
    dead_letters.router,
    registry.router,
    live.router,
)

__all__ = ["ROUTERS"]
