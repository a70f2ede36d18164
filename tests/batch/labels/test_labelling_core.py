"""What labelling functions are, how their votes make a label, and what is counted of them."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from itertools import permutations
from pathlib import Path
from textwrap import dedent
from types import MappingProxyType
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.batch.background import BackgroundLoop
from headrace.batch.export.request import Split
from headrace.batch.export.sample import SampleBodies, sample_of
from headrace.batch.labels.functions import (
    LABEL_CHARACTERS_MAX,
    apply_functions,
    is_label,
    labelling_function,
    load_module,
)
from headrace.batch.labels.run import BodyReader
from headrace.batch.labels.statistics import (
    FAILURES_NAMED_MAX,
    LABELS_COUNTED_MAX,
    OTHERS,
    LabelTally,
    is_tie,
    majority,
)
from headrace.batch.labels.view import RecordView, record_view
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.catalog_rows import Labelled
from headrace.store.blobs.blob_store import Blobs
from headrace.store.catalog.exports import Exported
from headrace.store.catalog.views import StoredRecord
from headrace.store.errors import BlobArchivedError, BlobMissingError

VOTES = st.lists(st.sampled_from(["smoke", "fog", "clear"]), max_size=9)


def stored(kind: str = "ldo") -> StoredRecord:
    return StoredRecord(
        record_id=uuid4(),
        kind=kind,
        digest="ab" * 32,
        site="plant",
        source_id="cam-1",
        captured_at_us=1,
        sequence=1,
        ingested_at_us=2,
        media_type="application/json",
        size_bytes=20,
        store_key="one",
        store_offset=None,
        width=None,
        height=None,
        duration_us=None,
        ldo_id=None,
        code=None,
        about=None,
        attributes='{"label":"own","gain":[1]}',
        traceparent=None,
    )


def view(read: Callable[[StoredRecord], bytes] = lambda _: b'{"prediction":{"label":"good"}}') -> RecordView:
    return record_view(stored(), read)


def asked(*functions: Callable[[RecordView], object], record: RecordView | None = None):
    return apply_functions(MappingProxyType({function.__name__: function for function in functions}), record or view())  # type: ignore[arg-type]


def module(tmp_path: Path, text: str):
    path = tmp_path / "labels.py"
    path.write_text("from headrace import RecordView, labelling_function\n" + dedent(text))
    return load_module(path)


@given(VOTES)
def test_no_label_has_more_votes_than_the_winner_and_of_ties_the_first_wins(votes: list[str]) -> None:
    winner = majority(votes)
    assert (winner is None) == (votes == [])
    tied = [label for label in votes if votes.count(label) == max(map(votes.count, votes))]
    assert winner == (tied[0] if votes else None)
    assert is_tie(votes) == (len(set(tied)) > 1)


def test_only_the_order_decides_a_tie_and_nothing_else_does() -> None:
    for votes in permutations(["b", "a", "a", "b"]):
        assert majority(votes) == votes[0]
    assert {majority(votes) for votes in permutations(["b", "a", "a"])} == {"a"}


def test_a_function_votes_abstains_or_fails_and_ends_nothing() -> None:
    class Label(StrEnum):
        SMOKE = "smoke"

    def votes(record):
        return Label.SMOKE

    def abstains(record):
        return None

    def raises(record):
        raise ValueError("what happened")

    def leaves(record):
        raise SystemExit(3)

    def wrong(record):
        return 7

    class MuteError(Exception):
        def __str__(self):
            raise RuntimeError

    def mute(record):
        raise MuteError

    answers = asked(votes, abstains, raises, leaves, wrong, mute)
    assert answers.votes == {"votes": "smoke"}
    assert type(answers.votes["votes"]) is str
    assert answers.errors == {
        "raises": "ValueError",
        "leaves": "SystemExit",
        "wrong": "label_invalid",
        "mute": "MuteError",
    }
    line = raises.__code__.co_firstlineno + 1
    assert answers.messages["raises"] == f"ValueError: what happened (line {line})"
    assert "cannot be shown" in answers.messages["mute"]


@pytest.mark.parametrize("kind", [GeneratorExit, asyncio.CancelledError, BaseException])
def test_what_is_no_exception_ends_nothing_either(kind: type[BaseException]) -> None:
    def raises(record):
        raise kind

    assert asked(raises).errors == {"raises": kind.__name__}


def test_whoever_interrupts_interrupts_a_function() -> None:
    def waits(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asked(waits)


@pytest.mark.parametrize("text", ["", "\0", "a\0b", "\ud800", "x" * (LABEL_CHARACTERS_MAX + 1), b"smoke", 1, True])
def test_what_the_catalog_cannot_hold_is_no_label(text: object) -> None:
    assert not is_label(text)


@pytest.mark.parametrize("text", ["x", "x" * LABEL_CHARACTERS_MAX, "дым", "🔥"])
def test_text_is_a_label(text: str) -> None:
    assert is_label(text)


def test_a_body_is_read_once_and_only_when_it_is_wanted() -> None:
    read: list[UUID] = []

    def reader(record: StoredRecord) -> bytes:
        read.append(record.record_id)
        return b'{"prediction":{"label":"good"}}'

    record = view(reader)
    assert asked(lambda item: item.kind, record=record).votes == {"<lambda>": "ldo"}
    assert read == []
    assert record.content["prediction"]["label"] == "good"
    assert len(record.body) == 31
    assert read == [record.record_id]


def test_what_one_function_changes_the_next_one_does_not_see() -> None:
    record = view()
    record.attributes["gain"].append(2)
    record.content["prediction"].clear()
    assert (record.attributes["gain"], record.content["prediction"]) == ([1], {"label": "good"})


def test_a_body_that_is_gone_is_an_error_of_whoever_wants_it() -> None:
    def gone(_: StoredRecord) -> bytes:
        raise BlobMissingError("one", where="here")

    def looks(record):
        return "large" if len(record.body) > 1 else None

    def knows(record):
        return record.source_id

    answers = asked(looks, knows, record=view(gone))
    assert (answers.votes, answers.errors) == ({"knows": "cam-1"}, {"looks": "blob_missing"})


def test_a_body_that_is_archived_is_said_to_be(tmp_path: Path) -> None:
    with closing(BackgroundLoop()) as background:
        bodies = BodyReader(background, Blobs.open(f"file://{tmp_path}"))
        with pytest.raises(BlobArchivedError):
            bodies.read(replace(stored(), archived_at_us=1))
        assert bodies.store_error is None


def labelled(*votes: str | None, failed: str | None = None) -> Labelled:
    output = {f"f{number}": vote for number, vote in enumerate(votes) if vote is not None}
    return Labelled(uuid4(), majority(output.values()), output, {failed: "ValueError"} if failed else {})


def test_coverage_overlap_conflict_and_errors_are_counted() -> None:
    tally = LabelTally(["f0", "f1", "f2"])
    for item in (
        labelled("a", "a", "b"),
        labelled("a", None, None),
        labelled(None, None, None, failed="f1"),
        labelled("b", "a", None),
        labelled("a", "a", None, failed="f2"),
    ):
        tally.add(item)
    f0, f1, f2 = tally.functions.values()
    assert (f0.voted, f0.overlapped, f0.conflicted, dict(f0.labels)) == (4, 3, 2, {"a": 3, "b": 1})
    assert (f1.voted, f1.overlapped, f1.conflicted, dict(f1.errors)) == (3, 3, 2, {"ValueError": 1})
    assert (f2.voted, f2.overlapped, f2.conflicted) == (1, 1, 1)
    assert (tally.records, tally.unlabelled, tally.ties, tally.errors) == (5, 1, 1, 2)
    assert dict(tally.labels) == {"a": 3, "b": 1}
    assert tally.share(f0.voted) == 0.8
    assert LabelTally([]).share(0) == 0


def test_of_many_failures_only_the_first_are_named() -> None:
    tally = LabelTally(["f0"])
    for _ in range(FAILURES_NAMED_MAX + 5):
        tally.add(labelled(failed="f0"))
    assert (tally.errors, len(tally.failures)) == (FAILURES_NAMED_MAX + 5, FAILURES_NAMED_MAX)


def test_of_very_many_labels_only_the_first_are_counted_apart() -> None:
    tally = LabelTally(["f0"])
    for number in [*range(LABELS_COUNTED_MAX + 5), 0]:
        tally.add(labelled(f"label {number}"))
    for counted in (tally.labels, tally.functions["f0"].labels):
        assert len(counted) == LABELS_COUNTED_MAX + 1
        assert (counted["label 0"], counted["label 1"], counted[OTHERS]) == (2, 1, 5)
        assert counted.total() == tally.records
    assert not is_label(OTHERS)


def test_a_module_has_its_functions_in_order_and_the_version_of_its_source(tmp_path: Path) -> None:
    text = """
        import beside

        @labelling_function
        def second(record: RecordView) -> str | None:
            return beside.LABEL

        def no_function(record): return "x"

        @labelling_function
        def first(record: RecordView) -> str | None:
            return None
    """
    (tmp_path / "beside.py").write_text("LABEL = 'smoke'\n")
    result = module(tmp_path, text)
    assert list(result.functions) == ["second", "first"]
    assert apply_functions(result.functions, view()).votes == {"second": "smoke"}
    assert module(tmp_path, text).version == result.version
    assert module(tmp_path, text + "\n").version != result.version


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("x = 1", "module_invalid", "no labelling function"),
        ("1 / 0", "module_failed", "ZeroDivisionError: division by zero (line 2)"),
        ("def f(:", "module_failed", "SyntaxError: invalid syntax (line 2)"),
        ("exit(0)", "module_failed", "SystemExit"),
        ("class Odd(BaseException): ...\nraise Odd", "module_failed", "Odd"),
        ("@labelling_function\ndef f(r): ...\nf.__name__ = 'a\\0'", "module_invalid", "name is text"),
        ("@labelling_function\ndef f(r): ...\nf.__name__ = 'f' * 1000000", "module_invalid", "name is text"),
        ("@labelling_function\nasync def f(record): return 'x'", "module_failed", "a plain function"),
        ("@labelling_function\ndef f(record): yield 'x'", "module_failed", "a plain function"),
        ("@labelling_function\ndef f(r): ...\ng = f\n@labelling_function\ndef f(r): ...", "module_invalid", "named f"),
    ],
)
def test_a_module_that_says_nothing_is_refused(tmp_path: Path, text: str, code: str, message: str) -> None:
    with pytest.raises(HeadraceError) as raised:
        module(tmp_path, text)
    assert (raised.value.code, raised.value.exit_code) == (code, Exit.USAGE)
    assert message in str(raised.value)
    assert "labels.py" in raised.value.where


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HeadraceError, match="No such file"):
        load_module(tmp_path / "absent.py")


def test_what_is_no_function_cannot_be_marked() -> None:
    with pytest.raises(TypeError):
        labelling_function(7)  # type: ignore[type-var]


def test_the_label_of_a_version_is_a_samples_label() -> None:
    own = sample_of(Exported(stored("frame"), None), SampleBodies(), split=Split.TRAIN)
    given_ = sample_of(Exported(stored("frame"), None, "smoke"), SampleBodies(), split=Split.TRAIN)
    assert (own.fields["label"], given_.fields["label"]) == ("own", "smoke")


def test_the_example_of_the_documents_labels(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "labels.md").read_text("utf-8")
    path = tmp_path / "smoke.py"
    path.write_text(text.split("```python\n", 1)[1].split("```", 1)[0])
    functions = load_module(path).functions
    assert list(functions) == ["said_by_the_model", "hot", "nearly_empty_picture"]
    assert apply_functions(functions, view()).votes == {"said_by_the_model": "good"}
    assert apply_functions(functions, view()).errors == {}
