"""`headrace label`, and exports of what it labelled, against a real catalog and store."""

import json
from pathlib import Path
from textwrap import dedent
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from headrace.batch.export.request import ExportFormat, ExportRequest
from headrace.batch.export.run import export
from headrace.runtime.settings import Settings
from headrace.schemas.catalog_rows import BlobRow, RecordRow, RowBatch
from headrace.schemas.digest import blob_key, record_id, sha256_hex
from headrace.schemas.events import Kind
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.catalog import Catalog
from headrace.store.catalog.exports import PAGE_ROWS, ExportSelection
from tests.commands import headrace, run_as_process
from tests.processes import free_port
from tests.servers import own_store
from tests.store.store_rows import record

pytestmark = pytest.mark.stack

LDOS = 40
LOST = 7  # the bytes of this one are gone

RULES = """
    from headrace import labelling_function

    @labelling_function
    def said(record):
        return record.content["label"]

    @labelling_function
    def by_source(record):
        return {"cam-0": "smoke", "cam-1": None}[record.source_id]

    @labelling_function
    def bad(record):
        raise ValueError("of no use: \\x1b[31m")
"""


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A part of the bucket that no other test has."""
    return own_store(settings)


def rules(tmp_path: Path, text: str = RULES) -> str:
    path = tmp_path / "rules.py"
    path.write_text(dedent(text))
    return str(path)


def label_of(number: int) -> str:
    return ("smoke", "fog", "clear")[number % 3]


async def ingest(catalog: Catalog, blobs: Blobs, numbers: range) -> dict[str, int]:
    """Write LDOs as a worker does, and return them by their ids."""
    blob_rows, rows = [], []
    for number in numbers:
        body = json.dumps({"number": number, "label": label_of(number)}).encode()
        digest = sha256_hex(body)
        if number != LOST:
            await blobs.put(blob_key(digest), body)
        blob_rows.append(
            BlobRow(
                digest=bytes.fromhex(digest),
                size_bytes=len(body),
                media_type="application/json",
                store_key=blob_key(digest),
            )
        )
        rows.append(_ldo(number, digest, len(body)))
    await catalog.commit(RowBatch(blobs=blob_rows, records=rows, sightings=[], dead_letters=[]))
    return {str(row.record_id): number for row, number in zip(rows, numbers, strict=True)}


def _ldo(number: int, digest: str, size_bytes: int) -> RecordRow:
    return record(
        number,
        kind=Kind.LDO,
        record_id=record_id(Kind.LDO, digest),
        digest=bytes.fromhex(digest),
        media_type="application/json",
        size_bytes=size_bytes,
        source_id=f"cam-{number % 2}",
    )


def winner_of(number: int) -> str | None:
    """`said` stands first, so it wins against `by_source`, which abstains where the body is gone."""
    return None if number == LOST else label_of(number)


async def test_records_are_labelled_once_in_a_version_and_exported_by_their_labels(
    settings: Settings, catalog: Catalog, blobs: Blobs, tmp_path: Path
) -> None:
    numbers = await ingest(catalog, blobs, range(LDOS))
    command = ("label", "--with", rules(tmp_path), "--version", "one", "--json")
    done = headrace(settings, *command, code=1)
    output = done.json
    smoke = sum(winner_of(number) == "smoke" for number in range(LDOS))
    assert (output["version"], output["records"], output["added"], output["unlabelled"]) == ("one", LDOS, LDOS, 1)
    assert (output["labels"]["smoke"], sum(output["labels"].values())) == (smoke, LDOS - 1)
    functions = {function["name"]: function for function in output["functions"]}
    assert list(functions) == ["said", "by_source", "bad"]
    assert functions["bad"] == {
        "name": "bad",
        "coverage": 0.0,
        "overlap": 0.0,
        "conflict": 0.0,
        "labels": {},
        "errors": {"ValueError": LDOS},
    }
    assert functions["said"]["errors"] == {"blob_missing": 1}
    assert functions["by_source"]["coverage"] == 0.5
    conflicts = sum(number % 2 == 0 and label_of(number) != "smoke" for number in range(LDOS))
    assert (functions["said"]["conflict"], output["ties"]) == (conflicts / LDOS, conflicts)
    assert "of no use: \\x1b[31m" in done.err
    assert len(done.out.splitlines()) == 1, "nothing but the object"

    assert headrace(settings, *command, code=1).json == output | {"added": 0}

    until_us = _exported(settings, tmp_path / "all", "--labelled", "one")
    assert {numbers[line["record_id"]]: line["label"] for line in _lines(tmp_path / "all")} == {
        number: label_of(number) for number in range(LDOS) if number != LOST
    }
    _exported(settings, tmp_path / "smoke", "--labelled", "one", "--label", "smoke")
    assert {numbers[line["record_id"]] for line in _lines(tmp_path / "smoke")} == {
        number for number in range(LDOS) if winner_of(number) == "smoke"
    }

    # What is ingested and labelled later is in no export that reaches to before.
    await ingest(catalog, blobs, range(LDOS, LDOS + 10))
    assert headrace(settings, *command, code=1).json["added"] == 10
    asked = ExportRequest(
        format=ExportFormat.JSONL,
        wanted=ExportSelection(until_us=0, labelled="one"),
        validation_share=0.1,
        shard_bytes_max=1 << 20,
        shard_samples_max=100,
    )
    await export(settings, asked, str(tmp_path / "later"), until_us=until_us, progress=lambda _: None)
    assert _bytes(tmp_path / "later") == _bytes(tmp_path / "all")
    assert len(_lines(tmp_path / "all")) == LDOS - 1
    assert (
        "the newest versions are one"
        in headrace(settings, "export", "jsonl", str(tmp_path / "none"), "--labelled", "two", code=2).err
    )


def test_a_version_belongs_to_one_source(settings: Settings, tmp_path: Path) -> None:
    item = "from headrace import labelling_function\n@labelling_function\ndef f(record): return 'x'\n"
    headrace(settings, "label", "--with", rules(tmp_path, item), "--version", "one")
    changed = rules(tmp_path, item + "# changed\n")
    assert "version_taken" in headrace(settings, "label", "--with", changed, "--version", "one", code=2).err
    first = headrace(settings, "label", "--with", changed, "--json").json["version"]
    assert first == sha256_hex((item + "# changed\n").encode())[: len(first)]
    assert "option_invalid" in headrace(settings, "label", "--with", changed, "--version", "a b", code=2).err


async def test_a_run_that_is_killed_goes_on_where_it_stopped(
    settings: Settings, catalog: Catalog, blobs: Blobs, sql: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    numbers = range(3 * PAGE_ROWS)
    rows = [_ldo(number, sha256_hex(b"%d" % number), 1) for number in numbers]
    await catalog.commit(RowBatch(blobs=[], records=rows, sightings=[], dead_letters=[]))
    asked = tmp_path / "asked"
    command = (
        "label",
        "--json",
        "--with",
        rules(
            tmp_path,
            f"""
        import os
        from headrace import labelling_function
        asked = open({str(asked)!r}, "a", buffering=1)
        left = [int(os.environ.get("DIES_AFTER", "1000000"))]

        @labelling_function
        def f(record):
            if not left[0]:
                os._exit(9)
            left[0] -= 1
            print(record.record_id, file=asked)
            return record.source_id
    """,
        ),
    )
    for _ in range(2):
        headrace(settings, *command, code=9, run=run_as_process, DIES_AFTER="600")
    output = headrace(settings, *command, run=run_as_process).json
    assert output["records"] == len(numbers)
    lines = asked.read_text().splitlines()
    assert {UUID(line) for line in lines} == {row.record_id for row in rows}
    assert len(lines) - output["records"] < 2 * PAGE_ROWS  # of each run that was killed, less than a page
    kept = await sql.fetch("select label, count(*) from labels group by label order by label")
    assert [tuple(item) for item in kept] == [("cam-0", len(numbers) // 2), ("cam-1", len(numbers) // 2)]
    assert headrace(settings, *command, run=run_as_process).json == output | {"added": 0}
    assert len(asked.read_text().splitlines()) == len(lines)


async def test_a_function_that_prints_or_forks_changes_nothing(
    settings: Settings, catalog: Catalog, blobs: Blobs, sql: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    await ingest(catalog, blobs, range(5))
    children = tmp_path / "children"
    noisy = rules(
        tmp_path,
        f"""
        import os
        from headrace import labelling_function
        print("while it is loaded")

        @labelling_function
        def f(record):
            print("about", record.record_id)
            child = os.fork()
            if child:
                with open({str(children)!r}, "a") as file:
                    print(os.waitpid(child, 0)[1], file=file)
            return "parent" if child else "child"
    """,
    )
    done = headrace(settings, "label", "--with", noisy, "--json", run=run_as_process)
    assert len(done.out.splitlines()) == 1, "nothing but the object"
    assert done.json["labels"] == {"parent": 5}
    assert children.read_text().split() == ["0"] * 5
    assert done.err.count("about ") >= 5
    assert [tuple(item) for item in await sql.fetch("select label, count(*) from labels group by label")] == [
        ("parent", 5)
    ]


async def test_a_store_that_is_away_is_no_fault_of_a_function(
    settings: Settings, catalog: Catalog, blobs: Blobs, sql: "asyncpg.Connection[asyncpg.Record]", tmp_path: Path
) -> None:
    await ingest(catalog, blobs, range(3))
    tolerant = rules(
        tmp_path,
        """
        from headrace import labelling_function

        @labelling_function
        def f(record):
            try:
                return record.content["label"]
            except Exception:
                return "unknown"
    """,
    )
    away = settings.model_copy(update={"store_endpoint": f"http://127.0.0.1:{free_port()}"})
    assert "store_unreachable" in headrace(away, "label", "--with", tolerant, code=3).err
    assert await sql.fetchval("select count(*) from labels") == 0
    assert headrace(settings, "label", "--with", tolerant, "--json").json["records"] == 3


@pytest.fixture
async def sql(postgres_dsn: str) -> Any:
    connection = await asyncpg.connect(postgres_dsn)
    yield connection
    await connection.close()


def _exported(settings: Settings, target: Path, *args: str) -> int:
    """Export as lines, and return until when it reaches."""
    return int(headrace(settings, "export", "jsonl", str(target), *args, "--json").json["until_us"])


def _bytes(target: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in target.glob("*.jsonl")}


def _lines(target: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for data in _bytes(target).values() for line in data.splitlines()]
