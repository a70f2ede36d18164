"""Keep the bodies that are still to be brought from sites."""

from headrace.store.migrations.steps import run

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    run("r0022_transfers.sql")
