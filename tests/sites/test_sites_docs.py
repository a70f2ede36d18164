"""The commands of docs/sites.md, one after another, in a folder of the reader's own."""

from pathlib import Path

import pytest

from tests.docs.test_examples import Installation, commands_of

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(600)]


def test_every_command_works_as_it_stands(tmp_path: Path) -> None:
    reader = Installation(tmp_path)
    commands = commands_of("docs/sites.md")
    assert len(commands) == 5
    with reader.removed_afterwards():
        for command in commands:
            ended = reader.run(command, seconds=300)
            assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
            assert max(map(len, ended.stdout.splitlines()), default=0) <= 200
