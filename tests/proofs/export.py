"""Exports at full size: killed, resumed, repeated, to a directory and to S3, and read back by other libraries.

The catalog and the store are filled as a worker fills them: frames, clips, and LDOs in packs, a third of which name a
clip. A process is killed when it has said that a shard is whole and the target shows that the manifest is not there; a
kill that came too late is a failure of the proof.
"""

import asyncio
import json
import random
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import webdataset

from headrace.initialize import initialize
from headrace.native import temporary_stack
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import BlobRow, RecordRow, RowBatch
from headrace.schemas.digest import blob_key, pack_key, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs import pack
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from tests.proofs.commands import Commands
from tests.servers import settings_of

COUNT = 10_000

_BATCH = 500
_CAPTURED_AT_US = 1_790_000_000_000_000
_KILLED_AFTER_SHARDS = (2, 1)  # of each run, one after the other
_MEMBER = {"frame": "jpg", "clip": "mp4", "ldo": "ldo.json"}
_MEDIA_TYPE = {Kind.FRAME: "image/jpeg", Kind.CLIP: "video/mp4", Kind.LDO: "application/json"}


@dataclass(frozen=True)
class Item:
    """One record to be."""

    kind: Kind
    body: bytes
    digest: str
    clip_sha256: str | None

    @property
    def record_id(self) -> UUID:
        return record_id(self.kind, self.digest)


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Return what did not hold of exports of `count` records."""
    with temporary_stack("minio") as stack, tempfile.TemporaryDirectory() as place:
        settings = settings_of(stack)
        initialize(settings)
        items = {item.digest: item for item in _items(count)}
        asyncio.run(_fill(settings, [*items.values()]))
        say(
            f"{len(items)} records in the catalog, {sum(len(item.body) for item in items.values()) / 1e6:.0f} MB in "
            f"MinIO: {dict(Counter(item.kind.value for item in items.values()))}"
        )
        return Proof(settings, items, Path(place), say).run()


class Proof:
    """All exports of one catalog, and what did not hold."""

    def __init__(self, settings: Settings, items: dict[str, Item], place: Path, say: Callable[[str], None]) -> None:
        self.wrong: list[str] = []
        self._settings = settings
        self._commands = Commands(settings)
        self._items = items
        self._place = place
        self._say = say
        self._until: list[str] = []
        samples = str(max(1, len(items) // 12))
        self._options = {
            "webdataset": ("--shard-mib", "16", "--shard-samples", samples),
            "parquet": ("--shard-samples", samples),
            "jsonl": ("--shard-samples", samples),
        }

    def run(self) -> list[str]:
        whole = {}
        for form in self._options:
            whole[form] = self._whole(form)
            self._killed(form, str(self._place / f"{form}-killed"), whole[form])
        for form in ("webdataset", "parquet"):
            self._killed(form, f"{self._settings.store_url}/exports/{form}", whole[form])
        self._read_webdataset()
        self._read_parquet()
        self._splits()
        return self.wrong

    def _whole(self, form: str) -> dict[str, str]:
        """Export without a kill, and once more."""
        out, again = self._place / form, self._place / f"{form}-again"
        output = self._export(form, str(out))
        if not self._until:
            # As the command says it, so that whoever repeats it can.
            self._until = ["--until", json_time(output["until_us"])]
        result = _digests(out)
        repeated = self._export(form, str(out))
        self._check(repeated["written"] == 0 and _digests(out) == result, f"{form}: repeated there, nothing is written")
        self._export(form, str(again))
        self._check(
            _digests(again) == result, f"{form}: the same command elsewhere writes {len(result)} identical files"
        )
        manifest = json.loads((out / "_manifest.json").read_bytes())
        listed = {shard["name"]: shard["sha256"] for split in manifest["splits"].values() for shard in split["shards"]}
        self._check(
            listed == {name: item for name, item in result.items() if name != "_manifest.json"},
            f"{form}: the manifest has the digest of each of {len(listed)} shards",
        )
        self._check(manifest["samples"] == len(self._items), f"{form}: it counts {manifest['samples']} samples")
        return result

    def _killed(self, form: str, target: str, whole: dict[str, str]) -> None:
        """Kill two runs in the middle, let the third one end, and compare it with one that was never killed."""
        place = "S3" if "://" in target else "a directory"
        for shards in _KILLED_AFTER_SHARDS:
            process = self._commands.start(*self._command(form, target))
            assert process.stderr is not None
            seen = 0
            for line in process.stderr:
                seen += " samples, " in line
                if seen == shards:
                    process.kill()
                    break
            process.communicate()
            names = (
                asyncio.run(_remote_names(self._settings, target))
                if "://" in target
                else [item.name for item in Path(target).iterdir()]
            )
            stored = sum(not name.startswith("_") for name in names)
            in_the_middle = seen == shards and "_manifest.json" not in names and stored < len(whole) - 1
            self._check(in_the_middle, f"{form} to {place}: killed with {stored} of {len(whole) - 1} shards there")
        output = self._export(form, target)
        self._check(0 < output["written"] < len(whole) - 1, f"{form} to {place}: {output['written']} shards were left")
        result = asyncio.run(_remote_digests(self._settings, target)) if "://" in target else _digests(Path(target))
        self._check(result == whole, f"{form} to {place}: after two kills, identical to the run without any")

    def _read_webdataset(self) -> None:
        read: dict[str, Item] = {}
        damaged = clips = 0
        for shard in sorted((self._place / "webdataset").glob("*.tar")):
            for sample in webdataset.WebDataset(str(shard), shardshuffle=False):
                fields = json.loads(sample["json"])
                item = self._items[fields["digest"]]
                read[item.digest] = item
                damaged += sample[_MEMBER[fields["kind"]]] != item.body or sample["__key__"] != str(item.record_id)
                if item.clip_sha256:
                    clips += sha256_hex(sample["mp4"]) == item.clip_sha256
        named = sum(item.clip_sha256 is not None for item in self._items.values())
        self._check(read == self._items and not damaged, f"webdataset reads {len(read)} samples, every body as it was")
        self._check(clips == named, f"webdataset reads the clips of {clips} of {named} LDOs that name one")

    def _read_parquet(self) -> None:
        rows = pq.read_table(self._place / "parquet").to_pylist()
        lines = [
            json.loads(line)
            for shard in sorted((self._place / "jsonl").glob("*.jsonl"))
            for line in shard.read_bytes().splitlines()
        ]
        wanted = {item.digest: len(item.body) for item in self._items.values()}
        self._check(
            {row["digest"]: row["size_bytes"] for row in rows} == wanted and len(rows) == len(wanted),
            f"pyarrow reads {len(rows)} rows, every digest and size as it was",
        )
        contents = [row for row in rows if row["content"] is not None]
        self._check(
            all(sha256_hex(row["content"].encode()) == row["digest"] for row in contents) and bool(contents),
            f"the content of {len(contents)} LDOs has their digest",
        )
        self._check(
            {line["digest"] for line in lines} == set(wanted), f"jsonl has {len(lines)} lines, each record once"
        )

    def _splits(self) -> None:
        """The split of a record is the same in every format, and a larger share keeps what a smaller one chose."""
        of = {form: self._validation(self._place / form) for form in self._options}
        self._check(len({frozenset(item) for item in of.values()}) == 1, "all formats agree on the split")
        larger = self._place / "larger"
        self._export("jsonl", str(larger), "--validation", "0.3")
        more = self._validation(larger)
        self._check(of["jsonl"] < more, f"the {len(of['jsonl'])} of a share of 0.1 are among the {len(more)} of 0.3")
        apart = sum(
            (item.digest in of["jsonl"]) != (item.clip_sha256 in of["jsonl"])
            for item in self._items.values()
            if item.clip_sha256
        )
        self._check(apart == 0, "no LDO is in another split than its clip")

    def _validation(self, out: Path) -> set[str]:
        result = set()
        for shard in out.glob("validation-*"):
            if shard.suffix == ".parquet":
                result |= {row["digest"] for row in pq.read_table(shard).to_pylist()}
            elif shard.suffix == ".tar":
                with tarfile.open(shard) as tar:
                    result |= {
                        json.load(tar.extractfile(item))["digest"]  # type: ignore[arg-type]
                        for item in tar
                        if item.name.count(".") == 1 and item.name.endswith(".json")
                    }
            else:
                result |= {json.loads(line)["digest"] for line in shard.read_bytes().splitlines()}
        return result

    def _export(self, form: str, target: str, *more: str) -> dict[str, Any]:
        began = time.monotonic()
        output = self._commands.run(*self._command(form, target, *more))
        self._say(
            f"{form} {'to S3' if '://' in target else ''}: {output['samples']} samples, {output['shards']} shards, "
            f"{output['written']} written now, {time.monotonic() - began:.1f} s"
        )
        return output

    def _command(self, form: str, target: str, *more: str) -> tuple[str, ...]:
        return "export", form, target, *self._options[form], *self._until, *more, "--json"

    def _check(self, held: object, what: str) -> None:
        self._say(f"{'held' if held else 'NOT HELD'}: {what}")
        if not held:
            self.wrong.append(what)


def json_time(us: int) -> str:
    """Return a time of `--json` as an option takes it."""
    seconds, rest = divmod(us, 1_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:06d}"


def _items(count: int) -> Iterator[Item]:
    """Six frames, three LDOs and a clip of every ten; a third of the LDOs name the clip of the ten before."""
    rng = random.Random(7)
    clip: str | None = None
    for number in range(count):
        names = None
        if number % 10 < 6:
            kind, body = Kind.FRAME, b"\xff\xd8" + rng.randbytes(rng.randint(2_000, 30_000))
        elif number % 10 < 9:
            kind, body = Kind.LDO, b'{"prediction":{"label":"%d"},"n":%d}' % (number % 3, number)
            names = clip if number % 10 == 8 else None
        else:
            kind, body = Kind.CLIP, b"\0\0\0\x18ftyp" + rng.randbytes(rng.randint(50_000, 300_000))
        yield (item := Item(kind, body, sha256_hex(body), names))
        clip = item.digest if kind is Kind.CLIP else clip


async def _fill(settings: Settings, items: list[Item]) -> None:
    blobs = Blobs.from_settings(settings)
    catalog = await Catalog.open(settings.postgres_dsn.get_secret_value())
    try:
        for at in range(0, len(items), _BATCH):
            await _ingest(catalog, blobs, items[at : at + _BATCH], at)
    finally:
        await catalog.close()


async def _ingest(catalog: Catalog, blobs: Blobs, items: list[Item], first: int) -> None:
    """Write one batch as a worker does: LDOs in a pack, everything else an object of its own, then the rows."""
    data, result = pack.build([(item.digest, item.body) for item in items if item.kind is Kind.LDO])
    key_of_pack = pack_key(sha256_hex(data))
    await blobs.put(key_of_pack, data)
    await asyncio.gather(*(blobs.put(blob_key(item.digest), item.body) for item in items if item.kind is not Kind.LDO))
    places = iter(result)
    rows, records = [], []
    for number, entry in enumerate(items, first):
        key, offset = (key_of_pack, next(places)[0]) if entry.kind is Kind.LDO else (blob_key(entry.digest), None)
        digest, media_type, size_bytes = bytes.fromhex(entry.digest), _MEDIA_TYPE[entry.kind], len(entry.body)
        rows.append(
            BlobRow(digest=digest, size_bytes=size_bytes, media_type=media_type, store_key=key, store_offset=offset)
        )
        records.append(
            RecordRow(
                record_id=entry.record_id,
                kind=entry.kind,
                digest=digest,
                site="plant",
                source_id=f"cam-{number % 8}",
                captured_at_us=_CAPTURED_AT_US + number,
                sequence=number,
                media_type=media_type,
                size_bytes=size_bytes,
                clip_sha256=entry.clip_sha256,
            )
        )
    await catalog.commit(RowBatch(blobs=rows, records=records, sightings=[], dead_letters=[]))


def _digests(path: Path) -> dict[str, str]:
    return {item.name: sha256_hex(item.read_bytes()) for item in path.iterdir()}


def _opened(settings: Settings, target: str) -> Blobs:
    return Blobs.from_settings(settings.model_copy(update={"store_url": target}))


async def _remote_names(settings: Settings, target: str) -> list[str]:
    return [match.key async for match in _opened(settings, target).list("")]


async def _remote_digests(settings: Settings, target: str) -> dict[str, str]:
    stored = _opened(settings, target)
    return {name: sha256_hex(await stored.get(name)) for name in await _remote_names(settings, target)}
