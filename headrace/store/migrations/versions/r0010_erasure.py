"""Add what is erased, and what keeps it out."""

from headrace.store.migrations.steps import run

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    run("r0010_erasure.sql")
