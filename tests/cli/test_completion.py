"""`--version`, completion of the shells, and the help of Kafka's tools."""

import pytest

import headrace
from headrace.cli.app import app
from headrace.runtime.errors import Exit
from tests.cli.command_runs import Command, process


def test_the_version_is_that_of_the_package(command: Command) -> None:
    ended = command("--version")
    assert (ended.code, ended.out.decode().strip()) == (Exit.OK, f"headrace {headrace.__version__}")


def test_the_public_names_are_listed() -> None:
    assert {"Camera", "Device", "Publisher", "consume", "__version__"} <= set(dir(headrace))
    assert app.info.name == "headrace"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion(command: Command, shell: str) -> None:
    ended = command("completion", shell)
    assert ended.code == Exit.OK
    assert f"_HEADRACE_COMPLETE=complete_{shell}" in ended.out.decode()


@pytest.mark.server
@pytest.mark.parametrize(
    ("words", "completed"), [("headrace sta", {"status"}), ("headrace dlq ", {"ls", "show", "redrive"})]
)
def test_the_completion_knows_the_commands(words: str, completed: set[str]) -> None:
    env = {"_HEADRACE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    assert set(process(env=env).stdout.split()) == completed


def test_the_help_of_kafka_lists_its_tools(command: Command) -> None:
    ended = command("kafka", "--help")
    assert (ended.code, ended.err) == (Exit.OK, "")
    assert "Usage: headrace kafka" in ended.out.decode()
    assert "\n  console-consumer\n" in ended.out.decode()
