"""The variables of settings; unknown ones are detected, which would otherwise be ignored silently."""

import difflib
from collections.abc import Iterable, Mapping

PREFIX = "HEADRACE_"

# Variables with the prefix that are not settings: one marks the processes of a stack, one arms a crash point, and one
# was a setting and is ignored, because a batch no longer waits for further messages.
NOT_SETTINGS = frozenset({"HEADRACE_STACK_ID", "HEADRACE_CRASH_AT", "HEADRACE_BATCH_LINGER_S"})

_NEAREST_MAX = 3


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"{PREFIX}{name.upper()}"


def unknown_name(prefix: str, known: Iterable[str], given: Mapping[str, Iterable[str]]) -> tuple[str, str] | None:
    """Return the first name with the prefix that is not `known`, and a hint; else None.

    `given` holds the names by their origin, such as the environment. Case does not matter.
    """
    names = {name.upper() for name in known}
    for origin, given_names in given.items():
        for name in sorted(name.upper() for name in given_names):
            bare = name.removeprefix(prefix)
            if bare != name and bare not in names and name not in NOT_SETTINGS:
                near = [prefix + match for match in difflib.get_close_matches(bare, names, _NEAREST_MAX)]
                hint = f"Did you mean {' or '.join(near)}?" if near else "docs/settings.md lists all settings."
                return name, f"It is set in {origin}. {hint}"
    return None
