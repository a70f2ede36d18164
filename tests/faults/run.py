"""Carrying out experiments: a workload while faults happen, time to heal, and then the checker's verdict."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from random import Random

from headrace.batch.fsck.check import FsckOptions, open_and_check
from headrace.batch.fsck.findings import FsckProblem
from headrace.store.blobs.blob_store import Blobs
from tests.faults.acks import Acks, read_acks
from tests.faults.checker import CheckResult, check
from tests.faults.gather import gather
from tests.faults.listener import Listener
from tests.faults.own import read_own
from tests.faults.possible import NotPossibleError
from tests.faults.registry import Experiment
from tests.faults.watch import Watch, WatchFindings
from tests.faults.workload import Workload
from tests.faults.world import SETTLE_S_MAX, FaultsWorld, Shape, open_world

LEAD_S = 2.0
"""How long the workload runs before the first fault, and after the last."""
_NUMBERS_APART = 10_000_000
_SAMPLE = 20
"""How many bodies the collection reads; the checker reads all of them afterwards."""
_LEFT_BEHIND = {FsckProblem.OBJECT_WITHOUT_ROW, FsckProblem.STAGED_ABANDONED}


@dataclass(frozen=True, slots=True)
class Task:
    """One experiment to carry out."""

    experiment: Experiment
    count: int
    seed: int
    rate_hz: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one experiment gave: its JSON line. `invariants` are None where the experiment judges itself."""

    experiment: str
    title: str
    seed: int
    count: int
    faults: dict[str, int]
    attempted: int = 0
    acked: int = 0
    deliveries: int = 0
    duplicates_delivered: int = 0
    announced: int = 0
    invariants: dict[str, int | None] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    watch: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    ok: bool = False
    note: str = ""

    @property
    def line(self) -> dict[str, object]:
        """The result as it is printed."""
        return {name: value for name, value in asdict(self).items() if value not in ({}, "")}


def carry_out(tasks: Sequence[Task], say: "Say") -> list[Result]:
    """Carry out the tasks; those that need a world of the same shape share one, and the check is over all of it."""
    inside = [task for task in tasks if not task.experiment.worldless]
    results = []
    with ThreadPoolExecutor(1) as beside:  # what needs no world computes while worlds mostly wait
        alone = [beside.submit(_alone, task) for task in tasks if task.experiment.worldless]
        for shape in dict.fromkeys(task.experiment.shape for task in inside):
            results += _in_one_world(shape, [task for task in inside if task.experiment.shape == shape], say)
        results += [say.result(experiment.result()) for experiment in alone]
    return results


class Say:
    """Tells what happens as it happens."""

    def progress(self, text: str) -> None:
        """Tell a step, on standard error."""
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
        sys.stderr.flush()

    def result(self, result: Result) -> Result:
        """Tell a result."""
        return result


def _alone(task: Task) -> Result:
    began = time.monotonic()
    experiment = task.experiment
    about = {"experiment": experiment.name, "title": experiment.title, "seed": task.seed, "count": task.count}
    try:
        faults = experiment.run(None, task.count, Random(task.seed))  # type: ignore[arg-type]
    except NotPossibleError as error:
        return Result(**about, faults={}, note=f"not possible here: {error}")  # type: ignore[arg-type]
    except Exception as error:  # noqa: BLE001 - one experiment that fails must not keep the others from running
        return Result(**about, faults={}, note=_said(error), seconds=_since(began))  # type: ignore[arg-type]
    return Result(**about, faults=dict(faults), seconds=_since(began), ok=True)  # type: ignore[arg-type]


def _in_one_world(shape: Shape, tasks: Sequence[Task], say: Say) -> list[Result]:
    results: list[Result] = []
    with ExitStack() as stack:
        say.progress(f"starting {shape.brokers} broker(s), PostgreSQL, MinIO and {len(shape.members)} processes")
        try:
            world = stack.enter_context(open_world(shape))
        except NotPossibleError as error:
            return [say.result(_without_world(task, f"not possible here: {error}")) for task in tasks]
        except Exception as error:  # noqa: BLE001 - another shape may stand
            return [say.result(_without_world(task, _said(error))) for task in tasks]
        listener = Listener(world.settings)
        listener.start()
        stack.callback(listener.stop)
        past: list[Acks] = []
        for task in tasks:
            result, acks = _one(world, task, listener, past, say)
            past.append(acks)
            results.append(say.result(result))
    return results


def _without_world(task: Task, note: str) -> Result:
    experiment = task.experiment
    return Result(
        experiment=experiment.name, title=experiment.title, seed=task.seed, count=task.count, faults={}, note=note
    )


def _one(world: FaultsWorld, task: Task, listener: Listener, past: Sequence[Acks], say: Say) -> tuple[Result, Acks]:
    experiment, began = task.experiment, time.monotonic()
    say.progress(f"{experiment.name} {experiment.title}: {task.count} faults, seed {task.seed}")
    before = Counter(world.faults)
    path = world.directory / f"{experiment.name}-{len(past)}.acks"
    workload = Workload(world.settings, path, task.seed, rate_hz=task.rate_hz, first=len(past) * _NUMBERS_APART)
    watch = Watch(world.settings, world.fleet.pids, world.well)
    note = ""
    watch.start()
    workload.start()
    own: Counter[str] = Counter()
    try:
        time.sleep(LEAD_S)
        own = experiment.run(world, task.count, Random(task.seed))
        time.sleep(LEAD_S)
    except NotPossibleError as error:
        note = f"not possible here: {error}"
    except Exception as error:  # noqa: BLE001 - one experiment that fails must not keep the others from running
        note = _said(error)
    try:
        acks = workload.stop()
        note = note or _healed(world)
        if not world.settle():
            note = note or f"something still waits {SETTLE_S_MAX:.0f} s after healing"
        note = note or _collected(world)
    except Exception as error:  # noqa: BLE001 - what was acknowledged until then is judged all the same
        acks, note = read_acks(path), note or _said(error)
    finally:
        findings = watch.stop()
    faults = dict(Counter(world.faults) - before + own)
    note = note or _vacuous(task, acks, faults, workload.given_up)
    return _evaluated(world, task, acks, listener, [*past, acks, *read_own(world)], findings, faults, note, began), acks


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
    world: FaultsWorld,
    task: Task,
    acks: Acks,
    listener: Listener,
    everything: Sequence[Acks],
    findings: WatchFindings,
    faults: dict[str, int],
    note: str,
    began: float,
) -> Result:
    experiment = task.experiment
    try:
        listener.wait_quiet()
        observed = asyncio.run(gather(world.settings, everything, listener.heard(), findings))
        verdict: CheckResult = check(observed, grace_s=0)
    except Exception as error:  # noqa: BLE001 - what cannot be read fails the experiment, and is said
        return Result(
            experiment=experiment.name,
            title=experiment.title,
            seed=task.seed,
            count=task.count,
            faults=faults,
            attempted=len(acks.attempts),
            acked=len(acks.acks),
            seconds=_since(began),
            note=_said(error),
        )
    return Result(
        experiment=experiment.name,
        title=experiment.title,
        seed=task.seed,
        count=task.count,
        faults=faults,
        attempted=len(acks.attempts),
        acked=len(acks.acks),
        deliveries=observed.deliveries,
        duplicates_delivered=observed.deliveries - observed.distinct,
        announced=observed.announced,
        invariants=dict(verdict.counts),
        examples=verdict.examples,
        watch=findings.summary(),
        seconds=_since(began),
        ok=verdict.ok and not note,
        note=note,
    )


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)
