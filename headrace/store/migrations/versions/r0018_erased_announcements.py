"""Add when announcements were erased and whether their record stays, and the indexes to count and expire them."""

from headrace.store.migrations.steps import run

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and build the indexes."""
    run("r0018_erased_announcements.sql")
