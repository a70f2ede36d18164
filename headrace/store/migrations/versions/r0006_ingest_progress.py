"""Add the offset up to which each input partition is ingested, and the ranges that retention deleted first."""

from headrace.store.migrations.steps import run

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    run("r0006_ingest_progress.sql")
