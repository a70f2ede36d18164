"""What a watch concludes from its samples: standstill, growth, and offsets that were committed too early."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.runtime.settings import load_settings
from tests.faults.checker import check
from tests.faults.checker_samples import GROWN, good
from tests.faults.growth import MIB, Growth, Look
from tests.faults.watch import Standstill, Watch
from tests.processes import free_port


def test_a_standstill_is_found_once() -> None:
    rule = Standstill("messages")
    for second in range(40):
        rule.note(float(second), lag=5, figures=1)
    assert len(rule.found) == 1
    for second in range(40, 49):
        rule.note(float(second), lag=5, figures=2)
    rule.reset()
    for second in range(49, 58):
        rule.note(float(second), lag=5, figures=2)
    rule.note(58.0, lag=0, figures=2)
    for second in range(59, 69):
        rule.note(float(second), lag=3, figures=2)
    assert len(rule.found) == 1
    for second in range(69, 80):
        rule.note(float(second), lag=3, figures=2)
    assert len(rule.found) == 2


def grown(
    *, seconds: int, mib_per_hour: float = 0.0, descriptors: int = 0, threads: int = 0, at_s: tuple[int, int] = (0, 90)
) -> Growth:
    """Return looks at a process whose counts grow by so many, evenly between two times."""
    growth = Growth(Path(__file__).parent)
    growth._looks["worker", 1, 0.0] = looks = []
    for second in range(seconds):
        share = min(max(second - at_s[0], 0) / (at_s[1] - at_s[0]), 1.0)
        rss_bytes = int((100 + mib_per_hour * second / 3600) * MIB)
        looks.append(Look(float(second), rss_bytes, 50 + round(descriptors * share), 9 + round(threads * share)))
    return growth


def test_growth_is_judged_where_there_is_enough_to_judge_by() -> None:
    short = grown(seconds=100, mib_per_hour=10_000, descriptors=100).evaluate()
    assert (short.wrong, short.judged) == ([], [])
    assert short.not_judged.keys() == {"memory", "descriptors and threads"}
    middle = grown(seconds=400, mib_per_hour=10_000, threads=30, descriptors=80, at_s=(0, 400)).evaluate()
    assert middle.not_judged.keys() == {"memory"}
    assert middle.wrong == [
        "worker (1) holds 35 more file descriptors than half-way",
        "worker (1) has 13 more threads than half-way",
    ]
    for filling in ((100, 110), (210, 220), (330, 340), (390, 391)):
        filled = grown(seconds=400, threads=20, descriptors=40, at_s=filling).evaluate()
        assert filled.wrong == [], "pools that filled with their first work and stay so"
    steady = grown(seconds=8000, mib_per_hour=6).evaluate()
    assert (steady.wrong, steady.not_judged) == ([], {})
    assert steady.mib_per_hour == {"worker (1)": 6.0}
    small = grown(seconds=1000, mib_per_hour=60).evaluate()
    assert small.wrong == [], "60 MiB/h, but 11 MiB in all"
    assert len(grown(seconds=8000, mib_per_hour=12).evaluate().wrong) == 1


def test_a_temporary_file_that_stays_is_found(tmp_path: Path) -> None:
    (tmp_path / "tmp-before").touch()
    growth = Growth(tmp_path)
    for name in ("headrace-left", "tmp-young", "other"):
        (tmp_path / name).touch()
    for name in ("headrace-left", "other"):
        os.utime(tmp_path / name, (0, 0))
    assert growth.evaluate().wrong == [f"the temporary file {tmp_path / 'headrace-left'} was left behind"]


def blind_watch(healthy: Callable[[], bool] = lambda: True) -> Watch:
    """A watch of servers that are not there."""
    nobody = f"127.0.0.1:{free_port()}"
    settings = load_settings(
        _env_file=None, kafka_bootstrap=nobody, postgres_dsn=f"postgresql://headrace@{nobody}/headrace"
    )
    return Watch(settings, dict, healthy)


def test_a_watch_that_sees_nothing_never_passes() -> None:
    watch = blind_watch()
    watch.start()
    findings = watch.stop()
    assert findings.samples == 0
    assert check(replace(good(), watch=findings)).broken == {"I12", "I14"}


@pytest.mark.parametrize(("seen", "skipped", "faults", "red"), [(2, 3, 0, True), (3, 3, 0, False), (2, 9, 9, False)])
def test_a_watch_that_mostly_looks_away_is_red(
    monkeypatch: pytest.MonkeyPatch, seen: int, skipped: int, faults: int, red: bool
) -> None:
    looks = iter([True] * seen + [False] * skipped)
    watch = blind_watch(lambda: watch._samples < seen or not faults)

    def sample(*_: object, well: bool) -> None:
        if not next(looks):
            raise OSError("it does not answer")

    monkeypatch.setattr(watch, "_sample", sample)
    for _ in range(seen + skipped):
        watch._look(None, {})  # type: ignore[arg-type]
    findings = watch._findings()
    assert (findings.samples, findings.skipped) == (seen, skipped)
    assert check(replace(good(), watch=findings)).broken == ({"I12", "I14"} if red else set())


def test_a_standstill_is_judged_only_where_work_waited() -> None:
    watch = blind_watch()
    rules = watch._standstill, watch._relay_standstill
    for rule in rules:
        rule.note(0.0, lag=0, figures=1)
        assert watch._findings().i12 is None
    rules[0].note(1.0, lag=1, figures=1)
    assert watch._findings().i12 is None, "nobody knows whether the relay stands still"
    rules[1].note(1.0, lag=0, figures=2)
    assert watch._findings().i12 == (), "it has announced something since the last look"
    assert watch._findings().summary()["looks_at_work"] == 1


def test_a_relay_that_stands_still_is_found_while_the_workers_go_on() -> None:
    watch = blind_watch()
    for second in range(12):
        watch._standstill.note(float(second), lag=1, figures=second)
        watch._relay_standstill.note(float(second), lag=3, figures=7)
    assert watch._findings().i12 == ("3 announcements waited for 11 s while everything was up",)


class Gaps:
    """A catalog that has nothing between 0 and 150."""

    def fetch(self, text: str, *values: object) -> list[tuple[int]]:
        assert "limit" in text
        first, end, most = values[2:]
        assert isinstance(first, int)
        assert isinstance(end, int)
        assert isinstance(most, int)
        return [(place,) for place in range(first, min(end, 150))][:most]


def test_more_gaps_than_one_look_takes_are_looked_at_later(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = blind_watch()
    monkeypatch.setattr(watch, "_unfinished", lambda *_: True)
    for end, unfinished in ((0, 0), (200, 100), (200, 150), (200, 150)):
        watch._prove(Gaps(), {GROWN: end})  # type: ignore[arg-type]
        assert len(watch._findings().i14) == unfinished
