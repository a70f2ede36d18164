"""What every command guarantees without a service: help, exit codes, errors on standard error."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from headrace.cli.app import app
from headrace.runtime.errors import Exit
from tests.cli.command_runs import CANARY, ENDS_S_MAX, Command, process


def names() -> list[tuple[str, ...]]:
    """Every command there is, with its subcommands."""
    commands: list[tuple[str, ...]] = []
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        commands.append((name,))
        commands += [(name, inner) for inner in getattr(command, "commands", {})]
    return commands


def test_help_names_the_commands_of_the_contract(command: Command) -> None:
    ended = command("--help")
    assert ended.code == Exit.OK
    assert ended.err == ""
    for name in ("demo", "up", "down", "status", "worker", "relay", "publish", "cat", "ls", "show", "get"):
        assert re.search(rf"\b{name}\b", ended.out.decode())


@pytest.mark.parametrize("name", [name for name in names() if name != ("kafka",)], ids=" ".join)
def test_every_command_says_what_it_does(command: Command, name: tuple[str, ...]) -> None:
    ended = command(*name, "--help")
    assert (ended.code, ended.err) == (Exit.OK, "")
    assert "Usage: headrace" in ended.out.decode()


@pytest.mark.server
def test_the_module_is_the_command_too(tmp_path: Path) -> None:
    ended = process("--help", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (Exit.OK, "")
    assert "Usage:" in ended.stdout


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("worker", "--kinds", "frames,pictures"), "'picture' is no kind"),
        (("worker", "--kinds", ","), "no kind was named"),
        (("worker", "--kinds", "cids,frames"), "hint: use --kinds cids,ldos in one process"),
        (("ls", "--kind", "scan"), "hint: one or more of: cids, frames, clips, ldos"),
        (("ls", "--limit", "0"), "--limit"),
        (("ls", "--limit", "many"), "--limit"),
        (("consumer", "mine"), "hint: one of: "),
        (("cat", "edge.frames"), "hint: one of: edge.cids.v1"),
        (("cat", "edge.frames.v1", "--from", "yesterday"), "--from"),
        (("show",), "ID"),
        (("export", "csv", "s3://bucket/x"), "hint: one of: webdataset, parquet, jsonl"),
        (("export", "jsonl", "s3://bucket/x", "--quality", "sharpness>1"), "is not a bound of a frame's quality"),
        (("export", "jsonl", "s3://bucket/x", "--quality", "sharpness>=1"), "hint: add --kind frames"),
        (("up", "--brokers", "2"), "use 1 or 3"),
        (("nonsense",), "nonsense"),
        (("ls", "--nonsense"), "--nonsense"),
    ],
)
def test_wrong_use_is_said_and_ends_with_2(
    command: Command, nowhere: dict[str, str], args: tuple[str, ...], named: str
) -> None:
    ended = command(*args)
    assert ended.code == Exit.USAGE
    assert named in re.sub(r"\s*│\s*", " ", ended.err)
    assert ended.out == b""


def test_a_wrong_setting_is_named_and_ends_with_2(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_LOG_FORMAT", "xml")
    for args in (("ls",), ("worker",), ("status",)):
        ended = command(*args)
        assert ended.code == Exit.USAGE
        assert "HEADRACE_LOG_FORMAT is not usable" in ended.err
        assert "hint: " in ended.err


@pytest.mark.parametrize(
    ("args", "service"),
    [
        (("ls",), "postgres"),
        (("ls", "--json"), "postgres"),
        (("export", "jsonl", "s3://bucket/x"), "postgres"),
        (("show", "C-1"), "postgres"),
        (("get", "C-1"), "postgres"),
        (("publish", "cid", "C-1", "--source", "s"), "kafka"),
    ],
)
def test_a_service_that_is_away_is_named_and_ends_with_3(
    command: Command, nowhere: dict[str, str], args: tuple[str, ...], service: str
) -> None:
    ended = command(*args)
    assert ended.code == Exit.UNREACHABLE
    assert nowhere[service] in ended.err
    assert f"{service}_unreachable: " in ended.err
    assert "hint: " in ended.err
    assert ended.out == b""


@pytest.mark.server
@pytest.mark.parametrize("name", ["cat edge.frames.v1", "worker --kinds frames", "relay", "init"])
def test_what_waits_for_a_service_says_so_where_it_talks_and_ends_with_3(
    nowhere: dict[str, str], tmp_path: Path, name: str
) -> None:
    env = {name: value for name, value in os.environ.items() if name.startswith("HEADRACE_")}
    ended = process(*name.split(), env=env | {"HEADRACE_START_WAIT_S_MAX": "2.5"}, cwd=tmp_path)
    assert ended.returncode == Exit.UNREACHABLE
    assert nowhere["kafka"] in ended.stderr
    assert "kafka_unreachable: " in ended.stderr
    assert "Traceback" not in ended.stderr
    assert CANARY not in ended.stderr + ended.stdout
    assert ended.stdout == "", "what is no data was printed as data"


def test_without_a_stack_status_ends_with_3_and_down_is_content(command: Command) -> None:
    ended = command("status")
    assert ended.code == Exit.UNREACHABLE
    assert "hint: start it with `headrace up`" in ended.err
    assert command("down").code == Exit.OK


@pytest.mark.server
def test_a_reader_that_goes_away_is_no_reason_to_complain(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as shown:
        assert shown.stdout is not None
        assert shown.stderr is not None
        shown.stdout.close()
        assert shown.stderr.read() == b""


@pytest.mark.server
def test_the_public_face_loads_what_is_asked_for_and_no_more(tmp_path: Path) -> None:
    script = (
        "import sys, headrace; heavy = {'faust', 'confluent_kafka', 'cv2', 'obstore', 'typer'};"
        "print(sorted(heavy & set(sys.modules)));"
        "from headrace import Camera, Device, Publisher, consume; print(Publisher.__module__);"
        "print('faust' in sys.modules); print(hasattr(headrace, 'nonsense'))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=ENDS_S_MAX, check=True, cwd=tmp_path
    )
    assert ended.stdout.splitlines() == ["[]", "headrace.producers.publisher", "False", "False"]
