"""Add what lies in packs without a row, and the exports with their shards, for erasures; index LDOs by their clip."""

from headrace.store.migrations.steps import run

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables and build the index; inserts wait meanwhile."""
    run("r0020_pack_copies_and_exports.sql")
