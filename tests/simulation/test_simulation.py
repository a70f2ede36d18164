"""E20: the worker's and the relay's real code in simulated worlds where everything that can go wrong does.

`make faults` runs 1,000 schedules; `SIMULATION_SCHEDULES=100000` runs as many. A failing one is shrunk and shown with
its trace, and `simulate(Schedule(...))` with what is shown repeats it.
"""

import os
from collections.abc import Iterator
from random import Random

import pytest
import structlog
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from tests.simulation.simulation_faults import Effect, Fault, Schedule, SentInput, SimulationStep
from tests.simulation.simulation_input import WHATS
from tests.simulation.simulation_mutants import MUTANTS
from tests.simulation.simulation_run import System, simulate

SCHEDULES = int(os.environ.get("SIMULATION_SCHEDULES", "100"))
S_EACH_MAX = 0.5
MUTANT_SCHEDULES = 3000  # the most that a mutant may need; the slowest needs some hundreds

LINES_MAX = 400  # of a trace that is shown

NOTHING_AT = {SimulationStep.CLAIM}  # what only mutants do
SENT = st.builds(SentInput, st.integers(0, 3), st.sampled_from(WHATS), st.integers(0, 3))
FAULT = st.builds(
    Fault,
    st.sampled_from([step for step in SimulationStep if step not in NOTHING_AT]),
    st.integers(1, 4) | st.integers(1, 12),
    st.sampled_from(list(Effect)),
    st.sampled_from([1, 10, 40]),
)
SCHEDULE = st.builds(
    Schedule,
    seed=st.integers(0, 2**32 - 1),
    messages=st.lists(SENT, min_size=4, max_size=16).map(tuple),
    faults=st.lists(FAULT, min_size=3, max_size=10).map(tuple),
    workers=st.integers(1, 2),
    relays=st.integers(1, 2),
    batch_max=st.integers(1, 4),
)


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger("critical"), cache_logger_on_first_use=False
    )
    yield
    structlog.configure(**before)


def story(schedule: Schedule, system: System | None = None) -> str:
    """What happened, for a person; empty where nothing is wrong."""
    weather = simulate(schedule, system).weather
    if not weather.violations:
        return ""
    shown = weather.trace if len(weather.trace) <= LINES_MAX else [*weather.trace[:LINES_MAX], "...", weather.trace[-1]]
    return "\n".join([*weather.violations, f"seed {schedule.seed}", repr(schedule), *shown])


@pytest.mark.timeout(120 + SCHEDULES * S_EACH_MAX)
@settings(
    max_examples=SCHEDULES, deadline=None, print_blob=True, suppress_health_check=list(HealthCheck), database=None
)
@given(SCHEDULE)
def test_nothing_is_lost_and_nothing_comes_twice(schedule: Schedule):
    text = story(schedule)
    assert not text, text


def test_a_schedule_says_everything_that_happens():
    schedule = some_schedule(Random(7), messages=12, faults=8)
    assert simulate(schedule).weather.trace == simulate(schedule).weather.trace


@pytest.mark.parametrize("step", [step for step in SimulationStep if step not in NOTHING_AT])
@pytest.mark.parametrize("effect", Effect)
def test_every_fault_at_every_step_happens_and_is_survived(step: SimulationStep, effect: Effect):
    """At the first, the second and the third time that anybody comes there."""
    messages = tuple(SentInput(source, what, source) for source in range(3) for what in WHATS)
    # Whatever is read back at a start is only there after an earlier one failed.
    faults = (Fault(SimulationStep.END, 1, Effect.LOST, 1), *(Fault(step, nth, effect, 10) for nth in (1, 2, 3)))
    schedule = Schedule(3, messages, tuple({(fault.step, fault.nth): fault for fault in faults}.values()), 2, 2)
    world = simulate(schedule)
    assert not world.weather.violations, story(schedule)
    assert any(f"<-- {effect} " in line and f" {step} #" in line for line in world.weather.trace)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_system_with_one_mistake_fails_in_the_schedule_that_found_it(mutant: str):
    system, schedule = MUTANTS[mutant]
    assert story(schedule, system)
    assert not story(schedule)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_system_with_one_mistake_is_found(mutant: str):
    system, _ = MUTANTS[mutant]
    assert find_violation(system), f"{mutant!r} was not found in {MUTANT_SCHEDULES} schedules"


def find_violation(system: System) -> Schedule | None:
    try:
        return find(
            SCHEDULE,
            lambda schedule: bool(simulate(schedule, system).weather.violations),
            settings=settings(
                max_examples=MUTANT_SCHEDULES,
                deadline=None,
                phases=[Phase.generate],
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except NoSuchExample:
        return None


def some_schedule(random: Random, *, messages: int, faults: int) -> Schedule:
    """A schedule without Hypothesis."""
    steps = [step for step in SimulationStep if step not in NOTHING_AT]
    return Schedule(
        seed=random.randrange(2**32),
        messages=tuple(
            SentInput(random.randrange(4), random.choice(WHATS), random.randrange(4)) for _ in range(messages)
        ),
        faults=tuple(
            Fault(random.choice(steps), random.randint(1, 12), random.choice(list(Effect)), 10) for _ in range(faults)
        ),
        workers=2,
        relays=2,
    )
