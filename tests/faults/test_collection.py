"""What the collection says counts as a fault only where an orphan was up for it, and damage is never passed over."""

from collections import Counter

import pytest

from headrace.batch.fsck.findings import Finding, FsckProblem, FsckReport
from tests.faults.experiments.collection import outcome_of

KEYS = ("one", "two", "three")


def orphan(name: str) -> Finding:
    return Finding(FsckProblem.OBJECT_WITHOUT_ROW, name)


def test_only_what_was_up_for_collection_counts() -> None:
    healed = [(orphan("one"), "removed"), (orphan("two"), "a row references it by now"), (orphan("other"), "removed")]
    report = FsckReport(findings=[finding for finding, _ in healed], healed=healed)
    assert outcome_of(report, KEYS) == Counter({"removed": 1, "a row references it by now": 1})


def test_an_orphan_that_stays_is_an_error() -> None:
    report = FsckReport(findings=[orphan("one")], unhealed=[(orphan("one"), "the store was too slow for it")])
    with pytest.raises(AssertionError, match="one: the store was too slow"):
        outcome_of(report, KEYS)


@pytest.mark.parametrize("problem", FsckProblem)
def test_damage_is_an_error_although_it_was_mended(problem: FsckProblem) -> None:
    expected = {FsckProblem.OBJECT_WITHOUT_ROW, FsckProblem.STAGED_ABANDONED, FsckProblem.ANNOUNCEMENT_LATE}
    finding = Finding(problem, "somewhere")
    report = FsckReport(findings=[finding], healed=[(finding, "mended")])
    if problem in expected:
        assert outcome_of(report, KEYS) == Counter()
    else:
        with pytest.raises(AssertionError, match=f"{problem} somewhere"):
            outcome_of(report, KEYS)
