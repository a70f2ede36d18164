"""What the worker groups have not finished, by their offsets."""

import pytest

from headrace.runtime.settings import load_settings
from tests.faults import gather
from tests.faults.observed import Partition

FIRST, SECOND = Partition("edge.cids.v1", 0), Partition("edge.cids.v1", 1)


@pytest.mark.parametrize(
    ("begin", "end", "unfinished"), [(0, 5, 0), (0, 7, 2), (9, 9, 0), (8, 9, 1)], ids=["all", "two", "emptied", "one"]
)
def test_what_retention_deleted_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, begin: int, end: int, unfinished: int
) -> None:
    monkeypatch.setattr(gather, "committed_offsets", lambda _settings: {FIRST: 5, SECOND: 0})
    bounds = {FIRST: begin, SECOND: 0}, {FIRST: end, SECOND: 0}
    assert gather.lag(load_settings(_env_file=None), *bounds) == unfinished
