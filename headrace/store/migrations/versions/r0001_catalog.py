"""Create the first tables of the catalog."""

from headrace.store.migrations.steps import run

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table."""
    run("r0001_catalog.sql")
