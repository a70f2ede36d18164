"""`headrace keys` and `headrace hold`: keys by id or name, holds by the first digits."""

import pytest

from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from tests.cli.command_runs import Command
from tests.processes import environment_of

pytestmark = pytest.mark.stack


@pytest.fixture(autouse=True)
def addresses(command: Command, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)


def test_a_key_is_named_by_its_id_or_by_a_name_of_its_own(command: Command) -> None:
    ids = [
        command("keys", "add", name, "--role", "device", "--source", "*", "--json").json["key_id"]
        for name in ("line-1", "line-2", "line-2")
    ]
    assert command("keys", "revoke", "line-1", "--json").json == {"key_id": ids[0], "revoked": True}
    several = command("keys", "revoke", "line-2")
    assert (several.code, f"{ids[1]}, {ids[2]}" in several.err) == (Exit.USAGE, True)
    assert command("keys", "rotate", ids[1], "--json").json["key_id"] == ids[1]
    assert command("keys", "revoke", ids[1]).code == Exit.OK
    # The other one of that name is revoked, so the name is its own now.
    assert command("keys", "rotate", "line-2", "--json").json["key_id"] == ids[2]
    assert "no valid key has the id or name 'line-9'" in command("keys", "revoke", "line-9").err


def test_a_hold_is_released_by_its_first_digits(command: Command) -> None:
    hold_id = command("hold", "add", "--site", "plant", "--reason", "claim", "--json").json["hold_id"]
    assert command("hold", "ls").out.decode().splitlines()[1].split()[0] == hold_id[:8]
    assert command("hold", "release", "ffffffff").code == Exit.FAILED
    assert command("hold", "release", hold_id[:8], "--json").json == {"hold_id": hold_id, "released": True}


def test_rules_are_told_as_json(command: Command) -> None:
    rules = command("retention", "set", "frame", "30", "--site", "plant", "--json").json["rules"]
    assert rules == [{"kind": "frame", "site": "plant", "days": 30}]
    assert command("retention", "rm", "frames", "--site", "plant", "--json").json == {"removed": ["frame"]}
