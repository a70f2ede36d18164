"""Keep what the spools of sources report as lost."""

from headrace.store.migrations.steps import run

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    run("r0015_source_losses.sql")
