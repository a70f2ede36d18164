"""Keep the id of the topic that each input partition was ingested from."""

from headrace.store.migrations.steps import run

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    run("r0011_topic_id.sql")
