"""A setting with a wrong name would silently be without effect, so it is refused."""

import difflib
from collections.abc import Iterable, Mapping

# Variables with our prefix that are no settings: by the first a supervisor finds its children again, the second tells a
# process under test where to end.
NOT_SETTINGS = frozenset({"HEADRACE_STACK_ID", "HEADRACE_CRASH_AT"})

_NEAREST_MAX = 3


def unknown_name(prefix: str, known: Iterable[str], given: Mapping[str, Iterable[str]]) -> tuple[str, str] | None:
    """Return the first name with our prefix that is not `known`, and a sentence that helps; else None.

    `given` holds the names by the place where they stand. Case does not matter, as it does not for the settings.
    """
    names = {name.upper() for name in known}
    for place, found in given.items():
        for name in sorted(one.upper() for one in found):
            bare = name.removeprefix(prefix)
            if bare != name and bare not in names and name not in NOT_SETTINGS:
                near = [prefix + one for one in difflib.get_close_matches(bare, names, _NEAREST_MAX)]
                hint = f"Did you mean {' or '.join(near)}?" if near else "docs/settings.md lists them all."
                return name, f"It stands in {place}. {hint}"
    return None
