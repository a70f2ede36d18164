"""Exports, read back by the libraries that training jobs use."""

import io
import json
import tarfile
from collections import Counter
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path
from uuid import UUID

import pyarrow.parquet as pq
import pytest
import webdataset

from headrace.batch.export.manifest import ExportResult, finished_export, resume_request
from headrace.batch.export.request import ExportFormat, Split, parse_bounds, split_of
from headrace.batch.export.target import DirectoryTarget, StoreTarget
from headrace.runtime.errors import HeadraceError
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.exports import ExportSelection
from tests.batch.export.export_samples import CLIP, ExportWorld, directory, files, request, run


@pytest.fixture
async def world() -> ExportWorld:
    return await ExportWorld(120).fill()


def shards(result: ExportResult) -> list[str]:
    return [shard.name for split in result.splits.values() for shard in split]


async def test_webdataset_reads_every_sample_with_its_bytes(world: ExportWorld, tmp_path: Path) -> None:
    result, _ = await run(world, directory(tmp_path / "out"), request())
    seen = {}
    for name in shards(result):
        with (tmp_path / "out" / name).open("rb") as shard:
            for sample in webdataset.tariterators.group_by_keys(
                webdataset.tariterators.tar_file_expander([{"stream": shard, "url": name}])
            ):
                seen[UUID(sample["__key__"])] = sample
                assert json.loads(sample["json"])["split"] == name.split("-")[0]
    assert seen.keys() == world.bodies.keys()
    for record_id, sample in seen.items():
        fields = json.loads(sample["json"])
        member = {"frame": "jpg", "clip": "mp4", "ldo": "ldo.json", "cid": "cid.json"}[fields["kind"]]
        assert sample[member] == world.bodies[record_id]
        assert sha256(sample[member]).hexdigest() == fields["digest"]
        if fields["clip_digest"]:
            assert sample["mp4"] == CLIP
    assert sum(bool(json.loads(item["json"])["clip_digest"]) for item in seen.values()) == 15


async def test_webdataset_itself_decodes_shards(
    world: ExportWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its own reader of files leaves them open.
    held = lambda url, *_, **__: io.BytesIO((tmp_path / url.removeprefix("held:")).read_bytes())  # noqa: E731
    monkeypatch.setitem(webdataset.gopen_schemes, "held", held)
    asked = request(wanted=ExportSelection(until_us=1, kinds=(Kind.LDO,)), validation_share=0.0)
    await run(world, directory(tmp_path / "out"), asked)
    shards = "held:out/train-{000000..000001}.tar"
    result = [*webdataset.WebDataset(shards, shardshuffle=False).decode().to_tuple("json", "ldo.json")]
    assert len(result) == 30
    assert all(line["ldo_id"] == content["ldo_id"] and line["label"] for line, content in result)


async def test_parquet_is_read_as_one_directory(world: ExportWorld, tmp_path: Path) -> None:
    result, _ = await run(world, directory(tmp_path / "out"), request(ExportFormat.PARQUET))
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == result.samples == 120
    for row in rows:
        body = world.bodies[UUID(row["record_id"])]
        assert row["digest"] == sha256(body).hexdigest()
        assert row["content"] == (body.decode() if row["kind"] in {"cid", "ldo"} else None)
    assert {row["label"] for row in rows} == {"smoke", "scratch", "good", None} - {"good"}
    assert rows[0]["captured_at"].tzinfo is not None


async def test_json_lines_hold_what_was_said_digit_by_digit(world: ExportWorld, tmp_path: Path) -> None:
    await run(world, directory(tmp_path / "out"), request(ExportFormat.JSONL))
    lines = b"".join(data for name, data in files(tmp_path / "out").items() if name.endswith("jsonl")).splitlines()
    rows = [json.loads(line) for line in lines]
    assert {UUID(row["record_id"]) for row in rows} == world.bodies.keys()
    assert all(b'"x":0.1000000000000000000001' in line for line in lines if b'"kind":"ldo"' in line)
    assert all(b'"gain": 1e308' in line for line in lines if b'"kind":"frame"' in line)


@pytest.mark.parametrize("form", ExportFormat)
async def test_the_same_request_writes_the_same_bytes(world: ExportWorld, tmp_path: Path, form: ExportFormat) -> None:
    for name in ("one", "other"):
        await run(world, directory(tmp_path / name), request(form))
    assert files(tmp_path / "one") == files(tmp_path / "other")
    assert len(files(tmp_path / "one")) > 5


async def test_the_manifest_names_every_shard_and_nothing_else_is_left(world: ExportWorld, tmp_path: Path) -> None:
    result, output = await run(world, directory(tmp_path / "out"), request())
    stored = files(tmp_path / "out")
    manifest = json.loads(stored.pop("_manifest.json"))
    listed = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    assert {item["name"]: item["sha256"] for item in listed} == {
        name: sha256(data).hexdigest() for name, data in stored.items()
    }
    assert {item["name"]: item["size_bytes"] for item in listed} == {name: len(data) for name, data in stored.items()}
    assert manifest["samples"] == sum(item["samples"] for item in listed) == 120
    assert [item.name for item in output] == shards(result)
    assert max(item["samples"] for item in listed) == 20


class Full(DirectoryTarget):
    """A disk on which so many files find room."""

    left = 0

    async def write(self, name: str, chunks: AsyncIterator[bytes]) -> None:
        if self.left == 0:
            async for _ in chunks:
                raise HeadraceError("file_unwritable", "cannot write: No space left on device")
        self.left -= 1
        await super().write(name, chunks)


@pytest.mark.parametrize(
    ("form", "files_max"),
    [
        *((ExportFormat.WEBDATASET, files_max) for files_max in (1, 2, 3, 6, 11, 15)),
        (ExportFormat.PARQUET, 5),
        (ExportFormat.JSONL, 5),
    ],
)
async def test_a_run_that_ended_anywhere_goes_on_and_ends_the_same(
    world: ExportWorld, tmp_path: Path, form: ExportFormat, files_max: int
) -> None:
    await run(world, directory(tmp_path / "whole"), request(form))
    (tmp_path / "out").mkdir()
    full = Full(tmp_path / "out")
    full.left = files_max
    with pytest.raises(HeadraceError, match="No space left"):
        await run(world, full, request(form))
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in files(tmp_path / "out")}
    (tmp_path / "out" / "_unfinished-train-000009.tar").write_bytes(b"of a run that was killed")
    # It has become later, and the export still reaches as far as it did.
    _, output = await run(
        world, directory(tmp_path / "out"), request(form, wanted=ExportSelection(until_us=1_900_000_000_000_000))
    )
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    done = {name.removeprefix("_shard-").removesuffix(".json") for name in kept if name.startswith("_shard-")}
    assert done.isdisjoint(item.name for item in output)
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == kept[name] for name in done)


async def test_what_is_complete_says_so_and_another_request_is_refused(world: ExportWorld, tmp_path: Path) -> None:
    target = directory(tmp_path / "out")
    assert await finished_export(target) is None
    result, _ = await run(world, target, request())
    matches = await finished_export(target)
    assert matches is not None
    assert (matches.samples, shards(matches), matches.written) == (result.samples, shards(result), 0)
    with pytest.raises(HeadraceError, match="another export"):
        await run(world, target, request(validation_share=0.5))
    with pytest.raises(HeadraceError, match="another export"):
        await run(world, target, request(ExportFormat.JSONL))


class Late(StoreTarget):
    """A prefix into which another run writes what it was asked for after this one has looked."""

    def __init__(self, blobs: Blobs) -> None:
        super().__init__(blobs)
        self.other = StoreTarget(blobs)

    async def names(self) -> list[str]:
        result = await super().names()
        await resume_request(self.other, request(wanted=ExportSelection(until_us=2)), until_given=False)
        return result


async def test_of_two_runs_that_begin_at_once_in_a_store_one_says_until_when_they_reach(tmp_path: Path) -> None:
    late = Late(Blobs.open(f"file://{tmp_path}"))
    asked = await resume_request(late, request(wanted=ExportSelection(until_us=3)), until_given=False)
    assert asked.wanted.until_us == 2


async def test_shards_of_something_else_are_not_written_over(world: ExportWorld, tmp_path: Path) -> None:
    target = directory(tmp_path / "out")
    (tmp_path / "out" / "train-000000.tar").write_bytes(b"somebody's")
    with pytest.raises(HeadraceError, match="shards of something else"):
        await run(world, target, request())
    assert files(tmp_path / "out") == {"train-000000.tar": b"somebody's"}


async def test_bytes_that_are_gone_are_named_and_the_rest_is_written(world: ExportWorld, tmp_path: Path) -> None:
    gone = {str(await world.lose(number)): "blob_missing" for number in (0, 57, 119)}
    result, _ = await run(world, directory(tmp_path / "out"), request())
    assert (result.failed, result.samples) == (gone, 117)
    manifest = json.loads((tmp_path / "out/_manifest.json").read_bytes())
    assert {item["record_id"]: item["code"] for item in manifest["failed"]} == gone


async def test_bytes_that_are_others_do_not_go_into_a_shard(world: ExportWorld, tmp_path: Path) -> None:
    damaged = {str(await world.damage(number)): "blob_corrupt" for number in (3, 60)}
    result, _ = await run(world, directory(tmp_path / "out"), request())
    assert (result.failed, result.samples) == (damaged, 118)
    for shard in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(shard) as tar:
            assert not {name.split(".")[0] for name in tar.getnames()} & damaged.keys()


async def test_bytes_that_move_meanwhile_are_found_where_they_are(world: ExportWorld, tmp_path: Path) -> None:
    moved = {await world.move(number) for number in (0, 33, 119)}
    asked = request(validation_share=0.0)
    result, _ = await run(world, directory(tmp_path / "out"), asked)
    assert moved.isdisjoint(world.stale)
    assert (result.failed, result.samples) == ({}, 120)


async def test_an_ldo_whose_clip_is_archived_is_named_where_the_clip_is_wanted(
    world: ExportWorld, tmp_path: Path
) -> None:
    ldos = world.archive_clip()
    result, _ = await run(world, directory(tmp_path / "out"), request())
    assert result.failed == {str(ldo): "blob_archived" for ldo in ldos}
    lines, _ = await run(world, directory(tmp_path / "lines"), request(ExportFormat.JSONL))
    assert (lines.failed, lines.samples) == ({}, 120)


async def test_an_ldo_is_in_the_split_of_its_clip_before_that_has_come(world: ExportWorld, tmp_path: Path) -> None:
    asked = request(ExportFormat.JSONL, wanted=ExportSelection(until_us=1, kinds=(Kind.LDO,)), validation_share=0.5)
    splits = []
    for name, records in (("before", world.without_clips()), ("after", world)):
        await run(records, directory(tmp_path / name), asked)
        rows = [
            json.loads(line)
            for data in files(tmp_path / name).values()
            for line in data.splitlines()
            if b'"kind"' in line
        ]
        splits.append({row["record_id"]: (row["split"], row["clip_digest"]) for row in rows})
    assert splits[0] == splits[1]
    assert {split for split, clip in splits[0].values() if clip} == {split_of(sha256(CLIP).hexdigest(), None, 0.5)}


@pytest.mark.parametrize("name", ["_request.json", "_manifest.json"])
@pytest.mark.parametrize(
    "text", [b"", b"no json", b"[]", b"{}", b'{"selection": 7}', b'{"request": {"selection": {}}}']
)
async def test_what_another_program_left_there_is_not_written_over(
    world: ExportWorld, tmp_path: Path, name: str, text: bytes
) -> None:
    target = directory(tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(text)
    with pytest.raises(HeadraceError, match="something else"):
        await run(world, target, request())
    assert files(tmp_path / "out") == {name: text}


async def test_a_note_that_is_gone_or_damaged_costs_only_its_shard(world: ExportWorld, tmp_path: Path) -> None:
    await run(world, directory(tmp_path / "whole"), request())
    for damage in (lambda note: note.write_bytes(b"no json"), lambda note: note.unlink()):
        (tmp_path / "out").mkdir(exist_ok=True)
        full = Full(tmp_path / "out")
        full.left = 7
        with pytest.raises(HeadraceError, match="No space left"):
            await run(world, full, request())
        damage(tmp_path / "out" / "_shard-train-000001.tar.json")
        result, output = await run(world, directory(tmp_path / "out"), request())
        assert "train-000001.tar" in {item.name for item in output}
        assert files(tmp_path / "out") == files(tmp_path / "whole")
        assert result.written == len(output) < len(shards(result))
        for left in (tmp_path / "out").iterdir():
            left.unlink()


async def test_labels_choose_ldos_by_what_they_predict(world: ExportWorld, tmp_path: Path) -> None:
    asked = request(ExportFormat.JSONL, labels=("smoke",), validation_share=0.0)
    await run(world, directory(tmp_path / "out"), asked)
    rows = [json.loads(line) for line in (tmp_path / "out/train-000000.jsonl").read_bytes().splitlines()]
    assert Counter(row["kind"] for row in rows) == {"frame": 20}
    result, _ = await run(world, directory(tmp_path / "ldos"), request(ExportFormat.JSONL, labels=("scratch",)))
    assert result.samples == 30


async def test_only_frames_that_were_measured_well_are_written(world: ExportWorld, tmp_path: Path) -> None:
    chosen = list(world.bodies)[1:40:4]
    measured = {record: {"sharpness": 80.5, "width": 640} for record in chosen}
    asked = request(ExportFormat.JSONL, quality=parse_bounds("sharpness>=50"), validation_share=0.0)
    await run(world, directory(tmp_path / "out"), asked, quality=measured)
    rows = [json.loads(line) for line in (tmp_path / "out/train-000000.jsonl").read_bytes().splitlines()]
    assert {UUID(row["record_id"]) for row in rows} == set(chosen)
    assert {row["quality"]["sharpness"] for row in rows} == {80.5}


async def test_a_shard_is_cut_at_its_bytes_too(world: ExportWorld, tmp_path: Path) -> None:
    result, _ = await run(world, directory(tmp_path / "out"), request(shard_bytes_max=10 * 1024))
    for split in result.splits.values():
        assert all(shard.size_bytes <= 10 * 1024 + 1024 or shard.samples == 1 for shard in split)
    assert len(shards(result)) > 12


async def test_a_member_is_nobodys_and_of_no_time(world: ExportWorld, tmp_path: Path) -> None:
    await run(world, directory(tmp_path / "out"), request())
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "out/train-000000.tar").read_bytes())) as tar:
        assert {(item.mtime, item.uid, item.gid, item.uname, item.gname, item.mode) for item in tar} == {
            (0, 0, 0, "", "", 0o644)
        }
        assert tar.getnames() == sorted(tar.getnames(), key=lambda name: name.split(".")[0])


async def test_an_export_of_nothing_is_a_manifest(world: ExportWorld, tmp_path: Path) -> None:
    result, _ = await run(world, directory(tmp_path / "out"), request(labels=("nobody says this",)))
    assert (result.samples, [*files(tmp_path / "out")]) == (0, ["_manifest.json"])
    matches, _ = await run(world, directory(tmp_path / "out"), request(labels=("smoke",)))
    assert matches.samples == 30


@pytest.mark.parametrize("kind", [Kind.FRAME, Kind.LDO])
async def test_every_record_is_in_the_split_of_its_digest(world: ExportWorld, tmp_path: Path, kind: Kind) -> None:
    asked = request(ExportFormat.JSONL, wanted=ExportSelection(until_us=1, kinds=(kind,)))
    await run(world, directory(tmp_path / "out"), asked)
    for name, data in files(tmp_path / "out").items():
        for line in data.splitlines() if name.endswith("jsonl") else ():
            row = json.loads(line)
            assert name.startswith(split_of(row["digest"], row["clip_digest"], 0.25))
            assert row["split"] in set(Split)
