"""Add which blobs are archived, and the objects that a move has to delete."""

from headrace.store.migrations.steps import run

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the table; adding nullable columns rewrites nothing."""
    run("r0004_archive.sql")
