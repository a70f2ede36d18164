"""I13: whether processes grow. Only long runs tell: what ran too shortly is not judged, which is not zero.

Memory has to break two bounds at once, GROWTH_MIB_PER_HOUR_MAX and GROWTH_MIB_MAX: over a short span a steep slope is
noise. So a process that is looked at for the shortest span may grow by almost 16 MiB in ten minutes and stay green; the
slope alone decides only from two hours on.
"""

import os
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import linear_regression

import psutil

MIB = 1024 * 1024
WARM_UP_S = 300.0
SPAN_S_MIN = 600.0
GROWTH_MIB_PER_HOUR_MAX = 8.0
"""Red only together with the other bound."""
GROWTH_MIB_MAX = 16.0
"""What a process may grow by in the whole span, however steeply."""
START_UP_S = 30.0
COUNTED_S_MIN = 120.0
"""How long after its start-up a process must have run for its descriptors and threads to be compared."""
LOOKS = 10
"""How many looks half-way, at three quarters and at the end are compared; one look may fall into a burst.

Half-way, because pools fill when their work first comes: the store's client starts a thread for each of the sixteen
PUTs that a worker may have on their way, and keeps it while it is used every ten seconds. A worker may be given its
first partitions late, after another was killed, so the growth has to go on: half of each bound in each of the last two
quarters. Pools fill in one of them; a leak goes on.
"""
DESCRIPTORS_GROWTH_MAX = 24
"""More than the connections of those sixteen PUTs, which come and go with the work."""
THREADS_GROWTH_MAX = 8
"""More than the five of a producer, which a relay has once it leads."""
TEMPORARY_AGE_S_MIN = 60.0
_TEMPORARY = ("headrace-", "tmp")


@dataclass(slots=True)
class Look:
    """What one process held at a time; `age_s` is that of the process."""

    age_s: float
    rss_bytes: int
    descriptors: int
    threads: int


@dataclass(slots=True)
class GrowthResult:
    """What is wrong, what was judged, and why the rest was not."""

    wrong: list[str] = field(default_factory=list)
    judged: list[str] = field(default_factory=list)
    not_judged: dict[str, str] = field(default_factory=dict)
    mib_per_hour: dict[str, float] = field(default_factory=dict)


class Growth:
    """Looks at processes. One that was started anew is another process, under the same name."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or Path(tempfile.gettempdir())
        self._looks: dict[tuple[str, int, float], list[Look]] = {}
        self._files = set(self._temporary(0.0))
        self._said: set[str] = set()

    def look(self, processes: Mapping[str, int]) -> None:
        """Look at each process once; one that has just ended is left out."""
        for name, pid in processes.items():
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                begun = process.create_time()
                look = Look(time.time() - begun, process.memory_info().rss, process.num_fds(), process.num_threads())
                self._looks.setdefault((name, pid, begun), []).append(look)

    def evaluate(self) -> GrowthResult:
        """Say what grew; what was said once of a process is not said again."""
        growth = GrowthResult()
        for (name, pid, _), looks in self._looks.items():
            self._memory(f"{name} ({pid})", looks, growth)
            self._counts(f"{name} ({pid})", looks, growth)
        for what in ("memory", "descriptors and threads"):
            if not any(process_name.startswith(what) for process_name in growth.judged):
                needed = WARM_UP_S + SPAN_S_MIN if what == "memory" else START_UP_S + COUNTED_S_MIN
                growth.not_judged[what] = f"no process ran for {needed:.0f} s"
        left = set(self._temporary(TEMPORARY_AGE_S_MIN)) - self._files
        growth.wrong += [f"the temporary file {path} was left behind" for path in sorted(left)]
        return growth

    def _complain(self, growth: GrowthResult, subject: str, what: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            growth.wrong.append(what)

    def _memory(self, name: str, looks: list[Look], growth: GrowthResult) -> None:
        warm = [look for look in looks if look.age_s >= WARM_UP_S]
        if not warm or warm[-1].age_s - warm[0].age_s < SPAN_S_MIN:
            return
        growth.judged.append(f"memory of {name}")
        per_s, _ = linear_regression([look.age_s for look in warm], [float(look.rss_bytes) for look in warm])
        per_hour, total = per_s * 3600 / MIB, per_s * (warm[-1].age_s - warm[0].age_s) / MIB
        growth.mib_per_hour[name] = round(per_hour, 2)
        if per_hour > GROWTH_MIB_PER_HOUR_MAX and total > GROWTH_MIB_MAX:
            self._complain(growth, f"memory of {name}", f"{name} grew by {total:.1f} MiB, {per_hour:.1f} MiB/h")

    def _counts(self, name: str, looks: list[Look], growth: GrowthResult) -> None:
        up = [look for look in looks if look.age_s >= START_UP_S]
        if len(up) < 4 * LOOKS or up[-1].age_s - up[0].age_s < COUNTED_S_MIN:
            return
        growth.judged.append(f"descriptors and threads of {name}")
        windows = [up[end - LOOKS : end] for end in (len(up) // 2, 3 * len(up) // 4, len(up))]
        descriptors = _grown([[look.descriptors for look in window] for window in windows], DESCRIPTORS_GROWTH_MAX)
        threads = _grown([[look.threads for look in window] for window in windows], THREADS_GROWTH_MAX)
        if descriptors:
            what = f"{name} holds {descriptors} more file descriptors than half-way"
            self._complain(growth, f"descriptors of {name}", what)
        if threads:
            self._complain(growth, f"threads of {name}", f"{name} has {threads} more threads than half-way")

    def _temporary(self, age_s_min: float) -> Iterator[str]:
        # Directories belong to stacks and to tests, which remove them at their end; the service makes none.
        with suppress(OSError):
            for path in self._directory.iterdir():
                with suppress(OSError):
                    about = path.lstat()
                    ours = path.name.startswith(_TEMPORARY) and about.st_uid == os.getuid()
                    if ours and stat.S_ISREG(about.st_mode) and time.time() - about.st_mtime >= age_s_min:
                        yield str(path)


def _grown(windows: list[list[int]], growth_max: int) -> int:
    """Return by how much a count grew from the first window to the last, or 0 if that is no leak."""
    growth = [min(later) - max(earlier) for earlier, later in pairwise(windows)]
    total = min(windows[-1]) - max(windows[0])
    return total if total > growth_max and min(growth) > growth_max / 2 else 0
