"""Keep what sites' mirrored topics brought, and what is missing of them."""

from headrace.store.migrations.steps import run

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and the column."""
    run("r0021_mirrored_topics.sql")
