"""`headrace publish --spool` while Kafka is away, and the run after it."""

from pathlib import Path

import pytest

from headrace.producers.spool import spooled_publisher
from headrace.runtime.errors import Exit
from headrace.runtime.settings import Settings
from tests.cli.command_runs import Command
from tests.processes import environment_of


@pytest.mark.stack
def test_a_spooled_event_is_no_failure_and_the_next_run_sends_it(
    command: Command,
    nowhere: dict[str, str],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(spooled_publisher, "CLOSE_S_MAX", 0.2)
    spool = str(tmp_path / "spool")
    ended = command("publish", "cid", "C-1", "C-2", "--source", "s", "--spool", spool, "--json")
    assert ended.code == Exit.OK
    counts = {name: ended.json[name] for name in ("acknowledged", "spooled", "earlier_sent", "failed")}
    assert counts == {"acknowledged": 0, "spooled": 2, "earlier_sent": 0, "failed": 0}
    assert "0 acknowledged, 2 spooled, 0 failed" in ended.err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for name, value in environment_of(settings).items():
        monkeypatch.setenv(name, value)
    ended = command("publish", "cid", "C-3", "--source", "s", "--spool", spool, "--json")
    assert ended.code == Exit.OK
    assert (ended.json["acknowledged"], ended.json["spooled"], ended.json["earlier_sent"]) == (1, 0, 2)
    assert "sent 2 events that earlier runs had spooled" in ended.err
