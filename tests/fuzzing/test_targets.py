"""The fuzz targets for a moment; `make faults` runs them for minutes. See docs/faults.md."""

from random import Random

import pytest

from headrace.schemas.events import Kind
from tests.fuzzing import batches, messages, varints

BATCHES = batches.seeds()


def test_whatever_numbers_a_message_holds_it_is_an_event_or_a_dead_letter() -> None:
    random = Random()
    for _ in range(1500):
        kind, raw = random.choice(messages.seeds())
        raw = messages.mutations(kind, raw, random)
        try:
            messages.try_message(kind, raw, random)
        except AssertionError as error:
            raise AssertionError(f"{error}: {raw.hex()}") from None


@pytest.mark.parametrize(("kind", "raw"), messages.seeds())
def test_every_seed_is_accepted_and_read_as_it_is_written(kind: Kind, raw: bytes) -> None:
    assert messages.try_message(kind, raw, Random(1))


def test_a_value_that_is_read_otherwise_than_it_is_written_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    kind, raw = messages.seeds()[0]
    monkeypatch.setattr("headrace.schemas.codec.check_fields", lambda *_: None)
    with pytest.raises(AssertionError):
        messages.try_message(kind, raw[:-1] + b"\x01" + varints.written(64) + b"a" * 64, Random(1))


@pytest.mark.parametrize("value", varints.INTERESTING)
def test_numbers_are_read_as_they_were_written(value: int) -> None:
    assert varints.read(varints.written(value), 0) == (value, len(varints.written(value)))


def test_whatever_a_record_batch_holds_its_offsets_are_passed() -> None:
    random = Random()
    for _ in range(1000):
        batch = batches.mutated(random.choice(BATCHES), random)
        try:
            batches.try_batch(batch)
        except AssertionError as error:
            raise AssertionError(f"{error}: {batch.raw.hex()}") from None


@pytest.mark.parametrize("number", range(len(BATCHES)))
def test_every_seed_of_a_record_batch_is_read(number: int) -> None:
    assert batches.try_batch(BATCHES[number])
