"""Small disks: they fill to the last byte, and are gone afterwards."""

import errno
from pathlib import Path

import pytest

from headrace.native.layout import StateDir
from tests.faults import small_disk
from tests.faults.possible import NotPossibleError
from tests.faults.small_disk import MIB, SmallDisk

SIZE_MIB = 4


@pytest.fixture(autouse=True)
def possible(tmp_path: Path) -> None:
    try:
        with small_disk.small_disk(tmp_path / "probe", 1):
            pass
    except NotPossibleError as error:
        pytest.skip(f"not possible here: {error}")


def write(disk: SmallDisk, size: int) -> None:
    (disk.path / "file").write_bytes(bytes(size))


def test_it_fills_and_is_freed(tmp_path: Path) -> None:
    with small_disk.small_disk(tmp_path / "disk", SIZE_MIB) as disk:
        assert disk.free_bytes == SIZE_MIB * MIB
        write(disk, MIB)
        disk.fill()
        disk.fill()
        assert disk.free_bytes == 0
        with pytest.raises(OSError) as caught:
            write(disk, 2 * MIB)
        assert caught.value.errno == errno.ENOSPC
        disk.free()
        disk.free()
        write(disk, 3 * MIB)
    assert not (tmp_path / "disk").exists()


def test_what_others_give_back_is_taken(tmp_path: Path) -> None:
    with small_disk.small_disk(tmp_path / "disk", SIZE_MIB) as disk:
        write(disk, MIB)
        disk.fill()
        (disk.path / "file").unlink()
        assert disk.free_bytes == MIB
        disk.keep_full(0.05)
        assert disk.free_bytes == 0


def test_each_part_has_one_of_its_own_and_all_are_gone_afterwards(tmp_path: Path) -> None:
    state_dir = tmp_path / "stack"
    with small_disk.prepare(state_dir, frozenset({"kafka", "minio", "postgres", "spool"}), SIZE_MIB) as disks:
        assert set(disks) == {"kafka", "minio", "postgres", "spool"}
        places = {disk.path for disk in disks.values()}
        assert len(places) == 4
        assert all(path.is_mount() for path in places)
        assert state_dir / "kafka" in places
        disks["kafka"].fill()
        assert disks["minio"].free_bytes == SIZE_MIB * MIB
    assert not any(path.exists() for path in places)
    assert not StateDir.at(state_dir).outside.exists()
