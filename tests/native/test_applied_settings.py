from pathlib import Path

import pytest

from headrace.native.applied_settings import differing, write_applied
from headrace.native.layout import StateDir
from headrace.runtime.settings import load_settings

CANARY = "canary-of-the-settings"


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    write_applied(
        StateDir.at(tmp_path), load_settings(_env_file=None, watchdog_s=120.0, redis_url=f"redis://:{CANARY}@h")
    )
    return StateDir.at(tmp_path)


def test_the_same_settings_do_not_differ(state: StateDir) -> None:
    assert differing(state, load_settings(_env_file=None, watchdog_s=120.0, redis_url=f"redis://:{CANARY}@h")) == []


def test_each_difference_is_named_and_no_secret(state: StateDir) -> None:
    lines = differing(state, load_settings(_env_file=None, watchdog_s=100.0, relay_poll_s=2.0, redis_url="redis://h"))
    assert lines == [
        "HEADRACE_REDIS_URL is another one than the running processes have",
        "HEADRACE_RELAY_POLL_S is '2.0', and the running processes have its default",
        "HEADRACE_WATCHDOG_S is '100.0', and the running processes have '120.0'",
    ]
    assert CANARY not in state.applied.read_text()
    assert state.applied.stat().st_mode & 0o777 == 0o600


def test_a_stack_of_an_earlier_version_noted_nothing(tmp_path: Path) -> None:
    assert differing(StateDir.at(tmp_path), load_settings(_env_file=None, watchdog_s=100.0)) == []
