from dataclasses import replace
from pathlib import Path

import pytest

from headrace.native import disks as disks_module
from headrace.native.config import Secrets, StackConfig
from headrace.native.disks import Disk, DiskWatch, disks_of
from headrace.native.layout import StateDir

CONFIG = StackConfig(
    stack_id="s", cluster_id="c", store="local", brokers=1, services=(), ports={}, secrets=Secrets.new()
)
DISK = Disk(("kafka", "logs"), Path("/data"), 100, 1000)


def test_each_file_system_is_listed_once_with_what_it_holds(tmp_path: Path) -> None:
    state = StateDir.at(tmp_path)
    state.create()
    state.part("kafka").mkdir()
    [disk] = disks_of(state, CONFIG)
    assert disk.holds == ("kafka", "logs")
    assert 0 < disk.free_bytes <= disk.total_bytes


def test_a_full_disk_is_said_once_and_again_when_there_is_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    watch = DiskWatch(StateDir.at(tmp_path), CONFIG, 50, said.append)
    for free_bytes in (100, 49, 10, 60):
        monkeypatch.setattr(disks_module, "disks_of", lambda *_, free=free_bytes: (replace(DISK, free_bytes=free),))
        watch.check()
    assert len(said) == 2
    assert said[0].startswith("WARNING: disk almost full: 49 bytes free for kafka, logs below /data")
    assert said[1] == "disk: 60 bytes free for kafka, logs again"
