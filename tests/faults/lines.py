"""Carrying out experiments on lines: one stack for all of them, and for each a catalog and a store of its own."""

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

from headrace.initialize import initialize
from headrace.native import temporary_stack
from headrace.runtime.settings import Settings
from tests.faults.acks import Acks
from tests.faults.checker import check
from tests.faults.line import line_on
from tests.faults.results import Result, Say, Task, figures, holds, reason, since
from tests.servers import settings_of


def carry_out_on_lines(tasks: Sequence[Task], say: Say) -> list[Result]:
    """Carry out the tasks one after another."""
    if not tasks:
        return []
    with ExitStack() as stack:
        try:
            settings = settings_of(stack.enter_context(temporary_stack("minio", 1)))
            initialize(settings)
        except Exception as error:  # noqa: BLE001 - the other experiments run all the same
            return [say.result(task.result(note=reason(error))) for task in tasks]
        return [say.result(_on_line(settings, task, say)) for task in tasks]


def _on_line(settings: Settings, task: Task, say: Say) -> Result:
    experiment, began = task.experiment, time.monotonic()
    say.progress(f"{experiment.name} {experiment.title}: {task.count}, seed {task.seed}, on a line")
    with tempfile.TemporaryDirectory(prefix="headrace-line-") as directory:
        try:
            with line_on(settings, Path(directory)) as line:
                line.seed = task.seed
                faults = experiment.run(line, task.count, Random(task.seed))
                line.settle()
                observed = line.observed()
                verdict = check(observed)
        except Exception as error:  # noqa: BLE001 - one experiment that fails must not keep the others from running
            return task.result(note=reason(error), seconds=since(began))
    everything = Acks(dict(observed.attempts), list(observed.acks))
    gave = figures(everything, observed, verdict)
    ok = holds(verdict, experiment.leaves_open) and sum(faults.values()) >= task.count
    return task.result(**gave, faults=dict(faults), ok=ok, seconds=since(began))
