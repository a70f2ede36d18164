"""Free memory is returned to the system."""

import os
import platform
import subprocess
import sys

import pytest

from headrace.runtime.process import configure_malloc, trim_malloc

# Blocks that glibc would keep: it raises its limit with the first that is freed, and something behind holds the heap.
BURST = """
import resource, psutil
from headrace.runtime.process import configure_malloc
{call}
rss = psutil.Process().memory_info
def burst():
    blocks = [bytearray(b"x") * 1_500_000 for _ in range(60)]
    holding = [bytes(1000) for _ in range(1000)]
    return holding
first = bytearray(b"x") * 20_000_000
del first
before = rss().rss
kept = [burst() for _ in range(2)]
print((rss().rss - before) // 2**20)
"""


WITHOUT_WISHES = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}


def test_a_malloc_variable_in_the_environment_takes_precedence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "4294967296")
    assert not configure_malloc()


@pytest.mark.server
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
def test_the_memory_of_a_burst_is_returned():
    done = subprocess.run(
        [sys.executable, "-c", BURST.format(call="assert configure_malloc()")],
        capture_output=True,
        text=True,
        check=True,
        env=WITHOUT_WISHES,
    )
    assert int(done.stdout) < 20


# Small blocks, of which one in a thousand is still used: the heap cannot shrink from its end.
SCATTERED = """
import psutil
from headrace.runtime.process import trim_malloc
rss = psutil.Process().memory_info
blocks = [bytes(1000) for _ in range(100_000)]
kept = blocks[::1000]
del blocks
before = rss().rss
{call}
print((before - rss().rss) // 2**20)
"""


@pytest.mark.server
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the call")
@pytest.mark.parametrize(("call", "returned"), [("trim_malloc()", True), ("pass", False)])
def test_free_pages_between_used_blocks_are_returned(call: str, returned: bool):
    done = subprocess.run(
        [sys.executable, "-c", SCATTERED.format(call=call)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=WITHOUT_WISHES,
    )
    assert (int(done.stdout) > 50) == returned


def test_trimming_may_be_repeated():
    trim_malloc()
    trim_malloc()


# The same within a process of the service, which does it by itself.
RUNNING = """
import asyncio, psutil
from headrace.runtime import process
process.TRIM_EVERY_S = 0.1
rss = psutil.Process().memory_info

async def main(stop):
    blocks = [bytes(1000) for _ in range(100_000)]
    kept = blocks[::1000]
    del blocks
    before = rss().rss
    for _ in range({ticks}):
        await asyncio.sleep(0.1)
        if before - rss().rss > 50 * 2**20:
            break
    print((before - rss().rss) // 2**20)
    return 0

process.run(main)
"""


@pytest.mark.server
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the call")
@pytest.mark.parametrize(
    ("wishes", "ticks", "returned"), [({}, 300, True), ({"MALLOC_TRIM_THRESHOLD_": "4294967296"}, 20, False)]
)
def test_a_running_process_trims_by_itself_unless_malloc_is_configured(
    wishes: dict[str, str], ticks: int, returned: bool
):
    done = subprocess.run(
        [sys.executable, "-c", RUNNING.format(ticks=ticks)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=WITHOUT_WISHES | wishes,
    )
    assert (int(done.stdout.splitlines()[-1]) > 50) == returned
