"""Keep when a gateway last renewed its claim on an idempotency key."""

from headrace.store.migrations.steps import run

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column."""
    run("r0024_renewed_claims.sql")
