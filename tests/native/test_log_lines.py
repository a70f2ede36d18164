import json
from pathlib import Path

import pytest

from headrace.native.log_files import TAIL_BYTES_MAX, LogTail
from headrace.native.log_lines import LogLine, parsed


@pytest.mark.parametrize(
    ("text", "time", "level", "shown"),
    [
        (
            '{"topic": "a b", "found": 0, "event": "caught_up", "timestamp": "2026-11-30T18:44:06.900410Z"}',
            "2026-11-30T18:44:06.900410Z",
            "info",
            'caught_up topic="a b" found=0',
        ),
        (
            '{"event": "library", "level": "warning", "timestamp": "2026-11-30T18:44:09.5Z", "message": "it left"}',
            "2026-11-30T18:44:09.5Z",
            "warning",
            "it left",
        ),
        (
            "2026-11-30T18:43:13.856Z [main] WARN kafka.Server - no quorum",
            "2026-11-30T18:43:13.856000Z",
            "warning",
            "kafka.Server - no quorum",
        ),
        (
            "2026-11-30 18:43:10.332 UTC [2589] FATAL:  no space left on device",
            "2026-11-30T18:43:10.332000Z",
            "error",
            "no space left on device",
        ),
        ("2026-11-30T18:43:10Z kafka-1: exit 1", "2026-11-30T18:43:10.000000Z", "info", "kafka-1: exit 1"),
        ("plain text", "", "info", "plain text"),
        ('{"no": "event"}', "", "info", '{"no": "event"}'),
    ],
)
def test_each_format_has_time_level_and_text(text: str, time: str, level: str, shown: str) -> None:
    [line] = parsed("p", [text])
    assert (line.process, line.time, line.level, line.shown()) == ("p", time, level, shown)


def test_valkeys_local_time_becomes_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        [line] = parsed("valkey", ["2591:M 30 Nov 2026 18:43:10.179 # WARNING overcommit"])
    finally:
        monkeypatch.undo()
        time.tzset()
    assert (line.time, line.level) == ("2026-11-30T13:13:10.179000Z", "warning")


def test_a_traceback_belongs_to_its_line() -> None:
    error = json.dumps({"event": "halted", "level": "error", "timestamp": "2026-11-30T18:44:06Z"})
    lines = list(parsed("worker", [error, "Traceback (most recent call last):", '  File "a.py", line 1']))
    assert {(line.time, line.level) for line in lines} == {("2026-11-30T18:44:06Z", "error")}


def test_a_followed_file_gives_each_whole_line_once_also_when_it_was_emptied(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    tail = LogTail(log)
    assert tail.last() == []
    log.write_text("one\ntw")
    assert tail.appended() == ["one"]
    with log.open("a") as file:
        file.write("o\n")
    assert tail.appended() == ["two"]
    log.write_text("new\n")
    assert tail.appended() == ["new"]
    assert tail.appended() == []


def test_only_the_end_of_a_long_file_is_read_and_no_part_of_a_line(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("x" * 100 + "\n" + "".join(f"{number:07d}\n" for number in range(TAIL_BYTES_MAX // 4)))
    lines = LogTail(log).last()
    assert lines[-1] == f"{TAIL_BYTES_MAX // 4 - 1:07d}"
    assert all(len(line) == 7 for line in lines)
    assert len(lines) < TAIL_BYTES_MAX // 4


def test_a_level_has_its_rank() -> None:
    assert LogLine("p", "", "debug", "").rank < LogLine("p", "", "error", "").rank
