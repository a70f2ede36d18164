"""`headrace env`, and how commands and programs find the stack in its state directory."""

import json
import subprocess
from pathlib import Path

import pytest

from headrace.cli.env import EnvFormat, lines
from headrace.runtime.errors import Exit
from headrace.runtime.settings import load_settings
from headrace.runtime.stack_settings import CLIENT_FILE, client_settings, stack_variables
from tests.cli.command_runs import CANARY, Command

AWKWARD = 'it\'s \\ a "value" with $HOME and #'
KAFKA = {"HEADRACE_KAFKA_BOOTSTRAP": "127.0.0.1:19092", "HEADRACE_KAFKA_REPLICAS": "3"}


@pytest.fixture
def known_stack(command: Command, tmp_path: Path) -> Path:
    """The file that a stack leaves for its clients, in the state directory of this folder."""
    (tmp_path / ".headrace").mkdir()
    (tmp_path / ".headrace" / CLIENT_FILE).write_text(json.dumps(KAFKA))
    return tmp_path


def test_a_shell_gets_the_same_values() -> None:
    script = "\n".join(lines({"HEADRACE_X": AWKWARD}, EnvFormat.SHELL))
    ended = subprocess.run(
        ["sh", "-c", f'{script}\nprintf %s "$HEADRACE_X"'], capture_output=True, text=True, check=True
    )
    assert ended.stdout == AWKWARD


def test_a_dotenv_file_gets_the_same_values(tmp_path: Path) -> None:
    file = tmp_path / "stack.env"
    file.write_text("\n".join(lines({"HEADRACE_KAFKA_USERNAME": AWKWARD}, EnvFormat.DOTENV)))
    assert load_settings(_env_file=str(file)).kafka_username == AWKWARD


@pytest.mark.usefixtures("known_stack")
def test_the_variables_are_printed_in_each_format(command: Command) -> None:
    assert command("env", "--json").json == KAFKA
    assert command("env").out.decode().splitlines()[0] == "export HEADRACE_KAFKA_BOOTSTRAP=127.0.0.1:19092"
    assert command("env", "--format", "dotenv").out.startswith(b"HEADRACE_KAFKA_BOOTSTRAP='127.0.0.1:19092'\n")


def test_without_a_stack_it_says_how_to_start_one(command: Command) -> None:
    ended = command("env")
    assert (ended.code, ended.out) == (Exit.UNREACHABLE, b"")
    assert "hint: start it with `headrace up`" in ended.err


@pytest.mark.usefixtures("known_stack")
def test_a_program_finds_the_stack_of_its_folder_unless_an_address_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert client_settings().kafka_bootstrap == KAFKA["HEADRACE_KAFKA_BOOTSTRAP"]
    monkeypatch.setenv("HEADRACE_POSTGRES_DSN", f"postgresql://me:{CANARY}@db/headrace")
    assert client_settings().kafka_bootstrap == "127.0.0.1:9092"


def test_a_broken_file_is_no_stack(tmp_path: Path) -> None:
    (tmp_path / CLIENT_FILE).write_text("{")
    assert stack_variables(tmp_path) is None
    (tmp_path / CLIENT_FILE).write_text("[]")
    assert stack_variables(tmp_path) is None
