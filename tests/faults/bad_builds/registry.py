"""The known-bad builds by name: each is the real service with one thing changed, and each has to be found out."""

from collections.abc import Callable

from tests.faults.bad_builds import concurrency, json_values, publish_before_commit, raising

BUILDS: dict[str, Callable[[], None]] = {
    "concurrency": concurrency.apply,
    "raising": raising.apply,
    "json_values": json_values.apply,
    "publish_before_commit": publish_before_commit.apply,
}


def become(name: str) -> None:
    """Change this process into a bad build; raises KeyError where there is no such build."""
    BUILDS[name]()
