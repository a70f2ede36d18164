from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headrace.batch.export.target import DirectoryTarget, ExportTarget, StoreTarget, open_target
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.settings import load_settings
from headrace.store.blobs.blob_store import Blobs


@pytest.fixture(params=["directory", "store"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> ExportTarget:
    """Both kinds of target; a test states what holds for both."""
    return DirectoryTarget(tmp_path) if request.param == "directory" else StoreTarget(Blobs.open(f"file://{tmp_path}"))


async def some(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def broken() -> AsyncIterator[bytes]:
    yield b"a beginning"
    raise HeadraceError("store_unreachable", "the store is away")


def listed(path: Path) -> list[str]:
    return [item.name for item in path.iterdir()]


async def test_a_file_is_written_read_replaced_and_removed(target: ExportTarget) -> None:
    assert await target.read("a.tar") is None
    await target.write("a.tar", some(b"one", b"two"))
    await target.write("b.tar", some())
    assert (await target.read("a.tar"), await target.read("b.tar")) == (b"onetwo", b"")
    await target.write("a.tar", some(b"three"))
    assert await target.read("a.tar") == b"three"
    assert await target.names() == ["a.tar", "b.tar"]
    for _ in range(2):
        await target.remove("a.tar")
    assert await target.names() == ["b.tar"]


async def test_a_file_whose_chunks_break_off_is_not_there(target: ExportTarget, tmp_path: Path) -> None:
    await target.write("b.tar", some(b"before"))
    for name in ("a.tar", "b.tar"):
        with pytest.raises(Exception, match=r"away|store"):
            await target.write(name, broken())
    assert await target.names() == ["b.tar"]
    assert await target.read("b.tar") == b"before"
    assert listed(tmp_path) == ["b.tar"]


async def test_only_the_first_one_creates_a_file(target: ExportTarget) -> None:
    assert await target.create("a.json", b"one")
    assert not await target.create("a.json", b"two")
    assert not await target.create("a.json", b"of another size")
    assert await target.read("a.json") == b"one"


async def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "_request.json").mkdir()
    with pytest.raises(HeadraceError, match="cannot read"):
        await DirectoryTarget(tmp_path).read("_request.json")


def test_a_directory_is_one_exports_at_a_time(tmp_path: Path) -> None:
    settings = load_settings(_env_file=None)
    with open_target(str(tmp_path / "new/one"), settings) as first:
        assert isinstance(first, DirectoryTarget)
        with pytest.raises(HeadraceError, match="another export"), open_target(str(tmp_path / "new/one"), settings):
            pass
    with open_target(f"file://{tmp_path}/new/one", settings) as again:
        assert again.where == first.where


def test_what_is_no_directory_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(HeadraceError, match="cannot write: Not a directory"),
        open_target(str(tmp_path / "file"), load_settings(_env_file=None)),
    ):
        pass


@pytest.mark.parametrize("text", ["ftp://host/x", "s3:///prefix", "http://host/x", "s3://"])
def test_a_url_of_no_store_is_refused_by_its_own_name(text: str) -> None:
    with (
        pytest.raises(HeadraceError, match="not a valid target") as raised,
        open_target(text, load_settings(_env_file=None)),
    ):
        pass
    assert raised.value.exit_code == Exit.USAGE


def test_a_url_is_a_prefix_of_a_store() -> None:
    with open_target("s3://bucket/exports/one", load_settings(_env_file=None)) as target:
        assert isinstance(target, StoreTarget)
        assert target.where == "s3://bucket/exports/one"


@pytest.mark.parametrize(
    ("store", "target"),
    [
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket", "s3://bucket/blobs"),
        ("s3://bucket/site", "s3://bucket/site/packs/x"),
        ("file:///srv/store", "/srv/store"),
        ("file:///srv/store", "file:///srv/store/staging/"),
    ],
)
def test_an_export_does_not_go_where_the_store_keeps_its_own(store: str, target: str) -> None:
    for of in ({"store_url": store}, {"archive_url": store}):
        settings = load_settings(_env_file=None, **of)
        with pytest.raises(HeadraceError, match="overlaps with"), open_target(target, settings):
            pass


def test_an_export_does_not_go_there_by_another_name_either(tmp_path: Path) -> None:
    (tmp_path / "store" / "blobs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    settings = load_settings(_env_file=None, store_url=f"file://{tmp_path}/store")
    for text in (f"{tmp_path}/other/../store/blobs", f"{tmp_path}/link/packs", f"file://{tmp_path}/link"):
        with pytest.raises(HeadraceError, match="overlaps with"), open_target(text, settings):
            pass
