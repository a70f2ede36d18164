"""SQL lives in .sql files, many statements to a file, each below a line `-- name --`."""

import re
from functools import cache
from pathlib import Path

_DIRECTORY = Path(__file__).parent / "sql"
_HEADING = re.compile(r"^-- (\w+) --$", re.MULTILINE)


@cache
def statements(file: str) -> dict[str, str]:
    """Return the statements of `sql/<file>.sql` by name."""
    _, *parts = _HEADING.split((_DIRECTORY / f"{file}.sql").read_text(encoding="utf-8"))
    return {name: body.strip() for name, body in zip(parts[::2], parts[1::2], strict=True)}
