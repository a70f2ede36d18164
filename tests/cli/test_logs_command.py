"""`headrace logs` over the files of a stack that has ended."""

import json
from pathlib import Path

import pytest

from headrace.runtime.errors import Exit
from tests.cli.command_runs import Command


@pytest.fixture
def logged(command: Command, tmp_path: Path) -> Path:
    folder = tmp_path / ".headrace" / "logs"
    folder.mkdir(parents=True)
    (folder / "relay.log").write_text(
        json.dumps({"event": "leading", "level": "info", "timestamp": "2026-11-30T18:00:02Z"}) + "\n"
        '{"event": "retrying", "why": "\\u001b[2J", "level": "warning", "timestamp": "2026-11-30T18:00:04Z"}\n'
    )
    (folder / "postgres.log").write_text(
        "2026-11-30 18:00:01.000 UTC [1] LOG:  listening\n2026-11-30 18:00:03.000 UTC [1] PANIC:  no space left\n"
    )
    return folder


@pytest.mark.usefixtures("logged")
def test_the_lines_of_all_processes_are_in_the_order_of_their_times(command: Command) -> None:
    lines = command("logs").out.decode().splitlines()
    assert lines[0] == "2026-11-30 18:00:01 info    postgres listening"
    assert [line.split()[3] for line in lines] == ["postgres", "relay", "postgres", "relay"]
    assert "\\x1b[2J" in lines[-1]


@pytest.mark.usefixtures("logged")
def test_a_process_a_level_and_a_number_choose(command: Command) -> None:
    assert len(command("logs", "relay").out.splitlines()) == 2
    assert command("logs", "--level", "error").out.decode().split()[2:4] == ["error", "postgres"]
    assert command("logs", "-n", "1").out.decode().split()[4] == "retrying"


@pytest.mark.usefixtures("logged")
def test_each_line_is_a_json_object_on_request(command: Command) -> None:
    lines = [json.loads(line) for line in command("logs", "relay", "--json").out.splitlines()]
    assert lines[0] == {"time": "2026-11-30T18:00:02Z", "level": "info", "process": "relay", "text": "leading"}
    assert lines[1]["why"] == "\x1b[2J"


@pytest.mark.usefixtures("logged")
def test_an_unknown_process_gets_the_nearest_name(command: Command) -> None:
    ended = command("logs", "rely")
    assert ended.code == Exit.USAGE
    assert "did you mean relay?" in ended.err


def test_without_logs_there_is_no_stack(command: Command) -> None:
    assert command("logs").code == Exit.UNREACHABLE
