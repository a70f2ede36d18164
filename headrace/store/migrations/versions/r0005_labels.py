"""Add the labels of records, by version of the labelling functions."""

from headrace.store.migrations.steps import run

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables."""
    run("r0005_labels.sql")
