"""Carrying out experiments: a workload while faults happen, time to heal, and then the checker's verdict."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any

from headrace.batch.fsck.check import FsckOptions, open_and_check
from headrace.batch.fsck.findings import FsckProblem
from headrace.store.blobs.blob_store import Blobs
from tests.faults.acks import Acks, read_acks
from tests.faults.checker import check
from tests.faults.gather import gather
from tests.faults.lines import carry_out_on_lines
from tests.faults.listener import Listener
from tests.faults.observed import Observed
from tests.faults.old_checkpoint import remember, restart_relay
from tests.faults.own import read_own
from tests.faults.results import Result, Say, Task, figures, holds, reason, since
from tests.faults.watch import Watch, WatchFindings
from tests.faults.workload import Workload
from tests.faults.world import SETTLE_S_MAX, FaultsWorld, Shape, open_world

LEAD_S = 2.0
"""How long the workload runs before the first fault."""
CALM_S_MAX = 40.0
"""How long it goes on at most after the last one, until workers and relay were seen at work with everything up."""
_POLL_S = 0.2
_NUMBERS_APART = 10_000_000
_SAMPLE = 20
"""How many bodies the collection reads; the checker reads all of them afterwards."""
_LEFT_BEHIND = {FsckProblem.OBJECT_WITHOUT_ROW, FsckProblem.STAGED_ABANDONED}


@dataclass(slots=True)
class _Past:
    """What the experiments of a world published so far, and what the last check observed."""

    acks: list[Acks] = field(default_factory=list)
    observed: Observed | None = None


def carry_out(tasks: Sequence[Task], say: Say) -> list[Result]:
    """Carry out the tasks; those that need a world of the same shape share one, and the check is over all of it."""
    alone = [task for task in tasks if task.experiment.worldless]
    on_lines = [task for task in tasks if task.experiment.on_line]
    inside = [task for task in tasks if not task.experiment.worldless and not task.experiment.on_line]
    # Each check reads everything again, so what publishes most comes last.
    inside.sort(key=lambda task: task.rate_hz)
    results = []
    with ThreadPoolExecutor(1) as pool:  # what needs no world computes while worlds mostly wait
        others = pool.submit(lambda: [say.result(_alone(task)) for task in alone] + carry_out_on_lines(on_lines, say))
        for shape in dict.fromkeys(task.experiment.shape for task in inside):
            results += _in_one_world(shape, [task for task in inside if task.experiment.shape == shape], say)
        results += others.result()
    return results


def _alone(task: Task) -> Result:
    began = time.monotonic()
    try:
        faults = task.experiment.run(None, task.count, Random(task.seed))
    except Exception as error:  # noqa: BLE001 - one experiment that fails must not keep the others from running
        return task.result(note=reason(error), seconds=since(began))
    return task.result(faults=dict(faults), seconds=since(began), ok=True)


def _in_one_world(shape: Shape, tasks: Sequence[Task], say: Say) -> list[Result]:
    results: list[Result] = []
    with ExitStack() as stack:
        say.progress(f"starting {shape.brokers} broker(s), PostgreSQL, MinIO and {len(shape.members)} processes")
        try:
            world = stack.enter_context(open_world(shape))
        except Exception as error:  # noqa: BLE001 - another shape may stand
            return [say.result(task.result(note=reason(error))) for task in tasks]
        listener = Listener(world.settings)
        listener.start()
        stack.callback(listener.stop)
        past = _Past()
        for task in tasks:
            if task is tasks[-1]:
                past.observed = None  # so that every body is read again
            results.append(say.result(_one(world, task, listener, past, say)))
    return results


def _one(world: FaultsWorld, task: Task, listener: Listener, past: _Past, say: Say) -> Result:
    experiment, began = task.experiment, time.monotonic()
    say.progress(f"{experiment.name} {experiment.title}: {task.count} faults, seed {task.seed}")
    before = Counter(world.faults)
    path = world.directory / f"{experiment.name}-{len(past.acks)}.acks"
    mix, first = experiment.mix, len(past.acks) * _NUMBERS_APART
    workload = Workload(world.settings, path, task.seed, rate_hz=task.rate_hz, first=first, mix=mix)
    watch = Watch(world.settings, world.fleet.pids, world.well, world.growth)
    note = ""
    checkpoint = remember(world)
    watch.start()
    workload.start()
    own: Counter[str] = Counter()
    try:
        time.sleep(LEAD_S)
        own = experiment.run(world, task.count, Random(task.seed))
        _wait_judged(world, watch)
    except Exception as error:  # noqa: BLE001 - one experiment that fails must not keep the others from running
        note = reason(error)
    try:
        acks = workload.stop()
        note = note or _healed(world)
        if not world.settle():
            note = note or f"something still waits {SETTLE_S_MAX:.0f} s after healing"
        note = note or _collected(world) or restart_relay(world, checkpoint)
    except Exception as error:  # noqa: BLE001 - what was acknowledged until then is judged all the same
        acks, note = read_acks(path), note or reason(error)
    finally:
        findings = watch.stop()
    faults = dict(Counter(world.faults) - before + own)
    note = note or _vacuous(task, acks, faults, workload.given_up)
    past.acks.append(acks)
    gave = _evaluated(world, task, listener, past, findings)
    note = note or gave.get("note", "")
    gave |= {"faults": faults, "note": note, "ok": not note and gave.get("ok", False), "seconds": since(began)}
    return task.result(**gave)


def _wait_judged(world: FaultsWorld, watch: Watch) -> None:
    """Let the workload go on with everything up, until it shows whether workers and relay move."""
    world.wait_servers()
    world.fleet.wait_ready(SETTLE_S_MAX)
    deadline = time.monotonic() + CALM_S_MAX
    while not watch.judged and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _vacuous(task: Task, acks: Acks, faults: dict[str, int], given_up: Sequence[str]) -> str:
    """Say why a run that shows no harm shows nothing at all; empty where it does."""
    if not acks.acks:
        return "nothing was acknowledged"
    wanted = 1 if task.experiment.of_messages else task.count
    if sum(faults.values()) < wanted:
        return f"only {sum(faults.values())} of {wanted} faults happened"
    return f"{len(given_up)} messages were given up, among them {given_up[0]}" if given_up else ""


def _collected(world: FaultsWorld) -> str:
    """Collect what crashes left behind, so that I7 can be judged; say what else the collection found, if anything."""
    settings = world.settings.model_copy(update={"collect_grace_hours": 0.0})
    options = FsckOptions(sample=_SAMPLE, repair=True, force=True)
    report = asyncio.run(open_and_check(settings, Blobs.from_settings(settings), options))
    harm = [finding for finding in report.findings if finding.problem not in _LEFT_BEHIND]
    return f"fsck found {len(harm)} things wrong, among them {harm[0].problem} {harm[0].name}" if harm else ""


def _healed(world: FaultsWorld) -> str:
    try:
        world.wait_servers()
        world.fleet.wait_ready(SETTLE_S_MAX)
    except TimeoutError as error:
        return str(error)
    return ""


def _evaluated(
    world: FaultsWorld, task: Task, listener: Listener, past: _Past, findings: WatchFindings
) -> dict[str, Any]:
    """Return what the checker says of everything, as fields of a result."""
    acks = past.acks[-1]
    try:
        listener.wait_quiet()
        observed = _gathered(world, listener, past, findings)
        verdict = check(observed, grace_s=0)
    except Exception as error:  # noqa: BLE001 - what cannot be read fails the experiment, and is said
        return {"attempted": len(acks.attempts), "acked": len(acks.acks), "note": reason(error)}
    past.observed = observed
    return {
        **figures(acks, observed, verdict),
        "watch": findings.summary(),
        "ok": holds(verdict, task.experiment.leaves_open),
    }


def _gathered(world: FaultsWorld, listener: Listener, past: _Past, findings: WatchFindings) -> Observed:
    acks = [*past.acks, *read_own(world)]
    with asyncio.Runner() as runner:
        # Not `runner.run`: at its end it formats the whole result, for a comparison of signal handlers.
        return runner.get_loop().run_until_complete(
            gather(world.settings, acks, listener.heard(), findings, before=past.observed)
        )
