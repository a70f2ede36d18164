"""Add the Location header of a response that is kept under an Idempotency-Key."""

from headrace.store.migrations.steps import run

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    run("r0009_location_of_answers.sql")
