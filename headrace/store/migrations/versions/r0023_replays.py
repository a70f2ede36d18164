"""Add the replays with what each selected, and index the rows of further sites by time."""

from headrace.store.migrations.steps import run

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and build the index; inserts of further sites wait meanwhile."""
    run("r0023_replays.sql")
