"""Add what each further site said of a record that another site delivered first."""

from headrace.store.migrations.steps import run

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, its index, and the site of an announcement."""
    run("r0013_site_records.sql")
