"""Add the indexes and counts with which maintenance and lists stay linear however large the tables are."""

from headrace.store.migrations.steps import run

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build the indexes and count the records; inserts wait meanwhile."""
    run("r0016_linear_maintenance.sql")
