"""Who may come in through the gateway, and what came in through it."""

from headrace.store.migrations.steps import run

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables; adding a nullable column rewrites nothing."""
    run("r0003_gateway.sql")
