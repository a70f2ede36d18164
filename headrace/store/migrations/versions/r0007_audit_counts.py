"""Add the number of requests that a row of the audit log stands for, and its index by time."""

from headrace.store.migrations.steps import run

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and the index."""
    run("r0007_audit_counts.sql")
