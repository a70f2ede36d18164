"""The known-bad builds by name: each is the real service with one thing changed, and each has to be found out."""

from collections.abc import Callable

from tests.faults.bad_builds import concurrency, json_values, pipelines, publish_before_commit, raising, relays, rows

BUILDS: dict[str, Callable[[], None]] = {
    "concurrency": concurrency.apply,
    "raising": raising.apply,
    "json_values": json_values.apply,
    "publish_before_commit": publish_before_commit.apply,
    "relay_without_catch_up": relays.without_catch_up,
    "relay_marks_first": relays.marking_first,
    "batches_overtake": pipelines.overtaking,
    "ack_before_commit": pipelines.ack_before_commit,
    "shifted_column": rows.shifted_column,
    "wrong_pack_offset": rows.pack_offsets,
    "collection_without_marks": rows.collecting_unmarked,
}


def become(name: str) -> None:
    """Change this process into a bad build; raises KeyError where there is no such build."""
    BUILDS[name]()
