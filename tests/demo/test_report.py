from dataclasses import replace

import orjson
import pytest
from typer.testing import CliRunner

import headrace.demo.run
from headrace.cli.app import app
from headrace.demo.acknowledgements import MessageOffset, RecordKey
from headrace.demo.listener import Heard
from headrace.demo.reconcile import latencies_ms
from headrace.demo.report import Circumstances, Findings, as_json, conclusion, percentile, report_of, rows
from headrace.schemas.events import Kind

GOOD = Findings(
    published=130,
    unacknowledged=0,
    expected_distinct=100,
    expected_dead_letters={"not_framed": 3},
    recorded=127,
    distinct=100,
    known_before=0,
    dead_letters={"not_framed": 3},
    dead_letters_announced=3,
    announced=100,
    announced_twice=0,
    frames_distinct=60,
    frames_published=60,
    frames_planned=60,
    reports_published=30,
    reports_planned=30,
    consumed={"preprocessing": 60, "perception": 60},
    blobs=100,
    blobs_verified=100,
    thumbnails=60,
    thumbnails_verified=60,
    latencies_ms=[10.0, 20.0, 30.0],
)
HOW = Circumstances(store="local", source="a synthetic line", seconds={"publish": 13.0})

BROKEN = {
    "a message was neither recorded nor rejected": {"recorded": 126},
    "a message was not acknowledged": {"unacknowledged": 1},
    "a record is missing": {"distinct": 99, "announced": 99, "blobs": 99, "blobs_verified": 99},
    "a dead letter has another code": {"dead_letters": {"undecodable": 3}},
    "a dead letter was not told": {"dead_letters_announced": 2},
    "an announcement is missing": {"announced": 99},
    "a record was announced twice": {"announced_twice": 1},
    "a consumer missed a frame": {"consumed": {"preprocessing": 60, "perception": 59}},
    "a blob is lost": {"blobs_verified": 99},
    "two records share a blob": {"blobs": 99, "blobs_verified": 99},
    "a thumbnail is lost": {"thumbnails_verified": 59},
    "a message could not be read": {"strange": 1},
    "a frame was never published": {"frames_published": 59},
    "a device ended early": {"reports_published": 29},
}


def test_numbers_that_add_up_are_good():
    report = report_of(GOOD, HOW)
    assert report.good
    assert GOOD.duplicates == 27
    assert next(conclusion(report)).startswith("Every number adds up")


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN.keys())
def test_one_wrong_number_fails_and_is_named(change):
    report = report_of(replace(GOOD, **change), HOW)
    assert not report.good
    assert report.failed
    sentences = list(conclusion(report))
    assert all(any(check.says in line for line in sentences) for check in report.failed)


def test_a_demonstration_that_was_ended_early_has_no_plan_to_fulfil():
    assert report_of(replace(GOOD, frames_planned=None, frames_published=7, reports_planned=None), HOW).good


@pytest.mark.parametrize(
    ("findings", "code"), [(GOOD, 0), *((replace(GOOD, **change), 1) for change in BROKEN.values())]
)
def test_the_exit_code_and_the_last_line_say_so(monkeypatch, findings, code):
    monkeypatch.setattr(headrace.demo.run, "run", lambda *_: report_of(findings, HOW))
    result = CliRunner().invoke(app, ["demo", "--store", "local", "--json"])
    assert result.exit_code == code
    printed = orjson.loads(result.stdout.splitlines()[-1])
    assert printed["ok"] is (code == 0)
    assert printed["duplicates"] == findings.duplicates


def test_the_json_has_what_the_contract_names():
    report = as_json(report_of(GOOD, HOW))
    assert {
        "published",
        "distinct",
        "duplicates",
        "dead_letters",
        "announced",
        "consumed",
        "blobs_verified",
        "latency_ms_p50",
        "latency_ms_p99",
    } <= report.keys()
    assert report["latency_ms_p50"] == 20.0
    assert report["latency_ms_p99"] == 30.0
    assert report["messages_per_s"] == 10.0


def test_the_table_shows_each_dead_letter_code_and_consumer():
    shown = dict(rows(report_of(GOOD, HOW)))
    assert shown["  not_framed"] == 3
    assert shown["received by perception"] == "60 of 60 frames"


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([7], 0.99, 7), ([4, 1, 3, 2], 0.5, 2), (range(1, 101), 0.99, 99)],
)
def test_percentiles_are_values_that_were_measured(values, share, expected):
    assert percentile(list(values), share) == expected


def test_latency_counts_from_the_first_delivery():
    first, other = RecordKey(Kind.FRAME, "a" * 64), RecordKey(Kind.CID, "b" * 64)
    places = [MessageOffset("edge.frames.v1", 0, offset) for offset in range(3)]
    heard = Heard(
        appended_at_ms={places[0]: 1000, places[1]: 1040, places[2]: 1100},
        announced_at_ms={first: 1050},
    )
    assert latencies_ms({places[1]: first, places[0]: first, places[2]: other}, heard) == [50.0]
