"""What the documents point to exists, and every decision has the same four parts."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DECISIONS = sorted((ROOT / "docs/decisions").glob("*.md"))
TOP = {path.name for path in ROOT.iterdir() if path.is_dir()}


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_link_within_the_project_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text("utf-8")):
        assert "://" in target or (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_file_that_is_named_in_code_marks_exists(document: Path) -> None:
    for path in re.findall(r"`([a-z_.]+(?:/[A-Za-z0-9_.-]+)+)`", document.read_text("utf-8")):
        if path.split("/")[0] in TOP and "." in path.rsplit("/", maxsplit=1)[-1]:
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_no_document_carries_a_path_of_a_machine(document: Path) -> None:
    assert not re.search(r"(?<![\w/])/(root|home|work|Users)/", document.read_text("utf-8"))


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("decision", DECISIONS, ids=named)
def test_a_decision_is_one_page_of_context_decision_and_consequences(decision: Path) -> None:
    text = decision.read_text("utf-8")
    assert text.startswith(f"# {int(decision.name[:4])}. ")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert len(text.splitlines()) <= 50
