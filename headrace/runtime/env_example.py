"""The settings as text for people: `.env.example`, and the table in `docs/settings.md`.

`python -m headrace.runtime.env_example env` and `… table` print them; `make contract` writes them, and a test holds
them to
`Settings`.
"""

import sys
from enum import Enum
from types import MappingProxyType
from typing import Any, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from headrace.runtime.settings import PREFIX, Settings

_SIGNS = MappingProxyType({Ge: ("ge", "≥"), Gt: ("gt", ">"), Le: ("le", "≤"), Lt: ("lt", "<")})

_ENV_HEAD = """\
# Every setting of Headrace with its default. A line counts once its "#" is gone, here in a copy named .env or as a
# variable of the environment, which wins. Secrets have no default that is worth having and stand here empty.
# Written by `make contract` from headrace/runtime/settings.py.
"""
_TABLE_HEAD = """\
# Settings

Each is a variable of the environment, or a line in `.env`; the environment wins. A wrong one ends the process at once,
with exit code 2 and a sentence that names it, and so does a variable `HEADRACE_*` that is none of these. Secrets print
as `***` wherever a setting is shown.
Written by `make contract` from `headrace/runtime/settings.py`.

| setting | what it says | default | allowed |
|---|---|---|---|
"""


def env() -> str:
    """Return `.env.example`: every setting commented out, so that a copy of it changes nothing."""
    lines = [_ENV_HEAD]
    for name, field in Settings.model_fields.items():
        allowed = _allowed(field)
        lines.append(f"# {field.description}" + (f" Allowed: {allowed}." if allowed else ""))
        lines.append(f"#{_variable(name)}={_default(field)}\n")
    return "\n".join(lines)


def table() -> str:
    """Return `docs/settings.md`."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = "secret" if _is_secret(field) else f"`{_default(field)}`" if _default(field) else "empty"
        rows.append(f"| `{_variable(name)}` | {field.description} | {default} | {_allowed(field)} |\n")
    return _TABLE_HEAD + "".join(rows)


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _is_secret(field: FieldInfo) -> bool:
    return field.annotation is SecretStr


def _default(field: FieldInfo) -> str:
    if _is_secret(field):
        return ""
    return str(field.default.value if isinstance(field.default, Enum) else field.default)


def _allowed(field: FieldInfo) -> str:
    kind: Any = field.annotation
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(str(choice.value) for choice in kind)
    if choices := get_args(kind):
        return ", ".join(str(choice) for choice in choices)
    bounds = [
        f"{sign} {getattr(limit, attribute)}"
        for limit in field.metadata
        for known, (attribute, sign) in _SIGNS.items()
        if isinstance(limit, known)
    ]
    return " and ".join(bounds)


if __name__ == "__main__":
    sys.stdout.write({"env": env, "table": table}[sys.argv[1]]())
