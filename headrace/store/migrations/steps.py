"""A migration's step is plain SQL in the file beside it."""

from pathlib import Path

from alembic import op

_VERSIONS = Path(__file__).parent / "versions"


def run(name: str) -> None:
    """Execute one SQL file, of any number of statements, in the migration's transaction."""
    # Through the driver itself: SQLAlchemy would take a colon in a comment or a literal for a bound parameter.
    op.get_bind().exec_driver_sql((_VERSIONS / name).read_text(encoding="utf-8"))
