"""Add retention by kind and site, and legal holds."""

from headrace.store.migrations.steps import run

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    run("r0012_retention.sql")
