"""docs/guarantees.md: what it names exists, and no crash point is left out."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from headrace.runtime.crash_points import CrashPoint

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/guarantees.md").read_text("utf-8")
HEAD = "## What holds each promise, and what proves it"
PROMISES = [str(number) for number in range(1, 8)]


@dataclass(frozen=True)
class Row:
    """One argument for a promise."""

    promise: str
    points: tuple[str, ...]
    proofs: tuple[str, ...]


def rows_of(text: str) -> list[Row]:
    section = text.split(HEAD + "\n", 1)[1].split("\n## ", 1)[0]
    rows = []
    for part in re.split(r"^### Promise ", section, flags=re.MULTILINE)[1:]:
        promise = part.partition(":")[0]
        for entry in part.split("\nHeld by: ")[1:]:
            points, _, proofs = entry.partition("- Crash points:")[2].partition("\n\n")[0].partition("\n- ")
            rows.append(Row(promise, _named(points), _named(proofs)))
    return rows


def _named(cell: str) -> tuple[str, ...]:
    return tuple(re.findall(r"`([^`]+)`", cell))


@cache
def defined_in(path: Path) -> frozenset[str]:
    """The tests that a file defines, without running any of it."""
    if not path.is_file():
        return frozenset()
    nodes = ast.parse(path.read_text("utf-8")).body
    return frozenset(
        node.name
        for node in nodes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


@cache
def experiments() -> frozenset[str]:
    """The experiments that are registered, without running any of them."""
    return frozenset(
        name
        for path in (ROOT / "tests/faults/experiments").glob("[a-z]*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef)
        for name in _registered_as(node)
    )


def _registered_as(node: ast.FunctionDef) -> Iterator[str]:
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) in {"experiment", "line_experiment"}:
            yield str(ast.literal_eval(decorator.args[0]))


def wrong_in(text: str) -> list[str]:
    """Return what the page names that does not exist, and what it leaves out."""
    rows = rows_of(text)
    wrong_rows = [f"{point} is no crash point" for row in rows for point in row.points if point not in set(CrashPoint)]
    for row in rows:
        if not row.proofs:
            wrong_rows.append(f"a row of promise {row.promise} names no test")
        if row.promise not in PROMISES:
            wrong_rows.append(f"there is no promise {row.promise!r}")
        wrong_rows += [f"{proof} does not exist" for proof in row.proofs if not exists(proof)]
    threatening = {point for row in rows for point in row.points}
    wrong_rows += [f"{point} threatens no promise" for point in CrashPoint if point not in threatening]
    kept = {row.promise for row in rows}
    return wrong_rows + [f"promise {promise} has no row" for promise in PROMISES if promise not in kept]


def exists(proof: str) -> bool:
    if "::" not in proof:
        return proof in experiments()
    path, name = proof.split("::", 1)
    return name in defined_in(ROOT / path)


def test_every_promise_is_held_threatened_and_proven_by_what_exists() -> None:
    assert wrong_in(TEXT) == []


def test_every_promise_has_its_words() -> None:
    promises = TEXT.split("## The promises", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^(\d+)\. ", promises, re.MULTILINE) == PROMISES


@pytest.mark.parametrize(
    ("right", "wrong", "wrong_rows"),
    [
        ("test_batch_pipeline.py::test_what", "test_batch_pipeline.py::test_that", "does not exist"),
        ("tests/streams/test_batch_pipeline.py", "tests/streams/test_batch_pipelines.py", "does not exist"),
        ("`E20`", "`E99`", "E99 does not exist"),
        ("`tx_began`", "`tx_ended`", "tx_ended is no crash point"),
        ("`tx_began`, ", "", "tx_began threatens no promise"),
        ("### Promise 6:", "### Promise 5:", "promise 6 has no row"),
        ("### Promise 6:", "### Promise 8:", "there is no promise '8'"),
    ],
)
def test_a_wrong_name_is_found(right: str, wrong: str, wrong_rows: str) -> None:
    assert right in TEXT
    assert any(wrong_rows in line for line in wrong_in(TEXT.replace(right, wrong)))


def test_an_argument_without_a_test_is_found() -> None:
    proofs = TEXT.split("### Promise 6:", 1)[1].split("- Experiments:", 1)[1].split("### Promise", 1)[0]
    assert wrong_in(TEXT.replace(proofs, " later\n")) == ["a row of promise 6 names no test"]
