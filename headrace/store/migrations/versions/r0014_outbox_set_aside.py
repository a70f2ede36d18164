"""Set rows of the outbox aside that cannot be published, and read each topic on its own."""

from headrace.store.migrations.steps import run

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column and replace the index."""
    run("r0014_outbox_set_aside.sql")
