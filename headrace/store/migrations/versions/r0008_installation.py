"""Add the installation's identity, and what a recovery has to know."""

from headrace.store.migrations.steps import run

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    run("r0008_installation.sql")
