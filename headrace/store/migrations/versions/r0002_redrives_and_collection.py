"""Add the outcomes of redrives, and the marks of orphan collection."""

from headrace.store.migrations.steps import run

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; adding nullable columns rewrites nothing."""
    run("r0002_redrives_and_collection.sql")
