"""What starts a process once, and only once, as it was laid down."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.faults.armed import Control, Start

STARTS = 200


def starts(name: str, count: int) -> list[Start]:
    return [Start({"NAME": f"{name}-{number}"}) for number in range(count)]


def test_starts_are_taken_in_their_order_and_then_plain_ones(tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    control.queue([*starts("one", 2), Start(module=("tests.faults.hang", "loop"))])
    assert [control.next() for _ in range(3)] == [*starts("one", 2), Start(module=("tests.faults.hang", "loop"))]
    assert control.next() == Start()
    assert control.waiting == 0


def test_each_start_is_taken_once_by_those_that_start_at_the_same_time(tmp_path: Path) -> None:
    Control(tmp_path).queue(starts("one", STARTS))
    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(lambda _: Control(tmp_path).next(), range(STARTS)))
    assert sorted(start.env["NAME"] for start in taken) == sorted(start.env["NAME"] for start in starts("one", STARTS))


def test_what_is_laid_down_anew_is_not_written_over_by_a_start_that_takes_the_old(tmp_path: Path) -> None:
    for number in range(STARTS):
        Control(tmp_path).queue(starts("old", 3))
        with ThreadPoolExecutor(2) as pool:
            taken = pool.submit(Control(tmp_path).next)
            pool.submit(Control(tmp_path).queue, starts(f"new-{number}", 3)).result()
        left = [start.env["NAME"] for start in iter(Control(tmp_path).next, Start())]
        expected = [start.env["NAME"] for start in starts(f"new-{number}", 3)]
        assert left == (expected[1:] if taken.result().env["NAME"] == expected[0] else expected)
