"""Build the indexes by which a kind of a source is listed, and the sightings of a record in their order."""

from headrace.store.migrations.steps import run

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build the indexes; inserts wait meanwhile."""
    run("r0019_list_indexes.sql")
