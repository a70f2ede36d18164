"""Add the gateway's API keys, audit log, idempotency keys, ingest requests, cameras and uploads."""

from headrace.store.migrations.steps import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; adding a nullable column rewrites nothing."""
    run("r0003_gateway.sql")
