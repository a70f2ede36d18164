"""Add when each job of `headrace maintenance` last succeeded."""

from headrace.store.migrations.steps import run

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    run("r0017_maintenance_runs.sql")
