from itertools import islice
from random import Random

import orjson
import pytest
import typer
from typer.testing import CliRunner

import headrace.bench.run
from headrace.bench import bodies
from headrace.bench.backlog import frames, ldos
from headrace.bench.figures import (
    CommittedRows,
    Figure,
    Worked,
    as_json,
    beside,
    conclusion,
    rate,
    ratio_rows,
    rows,
)
from headrace.cli import demo
from headrace.schemas.digest import canonical_body
from headrace.schemas.media_probe import image_header

FIGURES = [
    beside(Figure("frames_per_s", "frames", 300.0, "/s"), "plain PUTs", 400.0),
    beside(Figure("frames_to_quix", "frames", 300.0, "/s"), "Quix", 120.0),
    Figure("frames_cpu_ms", "worker CPU", 1.2, "ms"),
    Figure("idle_percent", "idle", 0.5, "%"),
]


def test_rates_leave_out_what_came_before_the_first_commit():
    committed = CommittedRows(
        rows=1000, batches=10, first_rows=100, first_s=50.0, last_s=53.0, announced=1000, announced_last_s=54.5
    )
    assert committed.per_s == 300.0
    assert committed.through_per_s == 200.0
    assert committed.batch_rows == 100.0


def test_nothing_measured_is_zero_not_an_error():
    assert rate(5, 0.0) == 0.0
    assert Worked(1.0, 0, 0).cpu_ms_each == 0.0
    assert beside(Figure("ldos_per_s", "LDOs", 3.0, "/s"), "Quix", 0.0).ratio is None
    assert CommittedRows(0, 0, 0, 0.0, 0.0, 0, 0.0).batch_rows == 0.0


def test_cpu_is_counted_for_each_delivery():
    assert Worked(1.8, 2000, 0).cpu_ms_each == pytest.approx(0.9)


def test_frames_have_their_size_and_a_header():
    made = list(frames(3))
    assert len({frame.sha256 for frame in made}) == 3
    assert all(len(frame.body) == bodies.FRAME_BYTES for frame in made)
    assert image_header(made[0].body).width == made[0].width == 640


def test_half_of_the_frames_are_duplicates():
    made = list(frames(40, distinct_share=0.5))
    assert len(made) == 40
    assert len({frame.sha256 for frame in made}) == 20


def test_ldos_have_about_two_kilobytes_and_are_distinct():
    made = list(islice(ldos(20), 20))
    assert len({canonical_body(event) for event in made}) == 20
    assert all(abs(len(event.body) - bodies.LDO_BYTES) < 50 for event in made)


def test_a_frame_repeats_from_its_seed():
    image = bodies.small_jpeg()
    first, again = (bodies.frame(1, captured_at_us=10**15, random=Random(4), image=image) for _ in range(2))
    assert first == again


def test_ratios_come_first_with_what_they_are_to_reach():
    assert list(ratio_rows(FIGURES)) == [
        ("frames", "0.75", "plain PUTs (400/s)", "≥ 0.7, better 0.85", "reached"),
        ("frames", "2.5", "Quix (120/s)", "", ""),
    ]


def test_each_figure_has_one_row_with_its_own_target():
    assert list(rows(FIGURES)) == [
        ("frames", "300 /s", "", ""),
        ("worker CPU", "1.20 ms", "≤ 1, better 0.7", "missed"),
        ("idle", "0.50 %", "≤ 1", "reached"),
    ]


@pytest.mark.parametrize(("cpu_ms", "verdict"), [(1.01, "missed"), (1.0, "reached"), (0.7, "surpassed")])
def test_a_verdict_says_how_much_of_a_target_is_reached(cpu_ms: float, verdict: str):
    assert Figure("frames_cpu_ms", "worker CPU", cpu_ms, "ms").verdict == verdict


def test_a_target_of_a_ratio_is_not_judged_without_the_baseline():
    assert Figure("ldos_per_s", "LDOs", 5000.0, "/s").verdict == ""


def test_the_conclusion_counts_what_is_reached():
    assert conclusion(FIGURES) == "2 of 3 targets reached"


def test_the_json_has_each_figure_by_name():
    report = as_json(FIGURES, {"cores": 2})
    assert report["figures"]["frames_per_s"]["ratio"] == 0.75
    assert report["machine"] == {"cores": 2}


def test_the_command_prints_one_json_object_last(monkeypatch):
    asked = []
    monkeypatch.setattr(
        headrace.bench.run, "run", lambda cases, options, _: asked.append((cases, options)) or (FIGURES, {"cores": 2})
    )
    app = typer.Typer()
    demo.register(app)
    result = CliRunner().invoke(app, ["bench", "ldos", "--store", "local", "--count", "100", "--json"])
    assert result.exit_code == 0, result.output
    assert orjson.loads(result.stdout.splitlines()[-1])["figures"].keys() == {figure.name for figure in FIGURES}
    assert asked[0][0] == ["ldos"]
    assert asked[0][1].frames == 100
