"""Batches of a process that are committed together, and those that have to be committed apart."""

from headrace.runtime import metrics
from headrace.schemas.events import Kind
from tests.streams.streams_rig import Gate, Rig, settle, until_true
from tests.streams.streams_samples import frame, png


def outcomes(kind: Kind, outcome: str) -> float:
    return metrics.worker_deliveries_total.labels(kind.value, outcome)._value.get()


async def test_batches_that_are_prepared_while_one_commits_are_committed_together() -> None:
    rig = Rig()
    gate = Gate(rig.journal, "commit")
    await rig.take(frame(png(shade=0)))
    await until_true(lambda: gate.held == 1)
    for shade in range(1, 4):
        await rig.take(frame(png(shade=shade)))
    await until_true(lambda: len(rig.journal.of("put")) == 4)
    await settle()
    assert rig.acked == []
    gate.open()
    await rig.drain()
    assert rig.journal.of("commit") == [[0], [1, 2, 3]]
    assert rig.acked == [0, 1, 2, 3]


async def test_a_transaction_of_several_batches_counts_a_new_record_for_the_first_of_them() -> None:
    rig = Rig()
    gate = Gate(rig.journal, "commit")
    await rig.take(frame(png(shade=0)))
    await until_true(lambda: gate.held == 1)
    new, duplicate = (outcomes(Kind.FRAME, outcome) for outcome in ("stored", "duplicate"))
    await rig.take(frame(png(shade=1)))
    await rig.take(frame(png(shade=1)), frame(png(shade=2)))
    await settle()
    gate.open()
    await rig.drain()
    assert rig.journal.of("commit") == [[0], [1, 2, 3]]
    assert outcomes(Kind.FRAME, "stored") - new == 3
    assert outcomes(Kind.FRAME, "duplicate") - duplicate == 1


async def test_batches_that_were_put_under_different_collection_epochs_are_committed_apart() -> None:
    rig = Rig()
    gate = Gate(rig.journal, "commit")
    await rig.take(frame(png(shade=0)))
    await until_true(lambda: gate.held == 1)
    await rig.take(frame(png(shade=1)))
    await until_true(lambda: len(rig.journal.of("put")) == 2)
    rig.catalog.epoch += 1
    await rig.take(frame(png(shade=2)))
    await until_true(lambda: len(rig.journal.of("put")) == 3)
    await settle()
    gate.open()
    await rig.drain()
    assert rig.acked == [0, 1, 2]
