"""What `headrace status` says of a stack, from what was gathered."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.cli.status import Known, Report, figures, notes
from headrace.native.disks import Disk
from headrace.native.info import ProcessStatus, StackStatus
from headrace.native.state_file import ProcessState
from headrace.runtime.backlog import Backlog
from headrace.runtime.errors import Exit
from headrace.schemas.topics import WORKER_GROUPS
from headrace.streams.worker.profile import LARGE, SMALL

GIB = 1024**3
WORKER = ProcessStatus("worker-media", ProcessState.READY, 7, 0, "http://127.0.0.1:1/readyz", None, Path("x.log"))
DISK = Disk(("kafka", "postgres"), Path("/data"), 5 * GIB, 10 * GIB)


def report(*processes: ProcessStatus, running: bool = True, **own: object) -> Report:
    return Report(StackStatus(Path("/s"), running, None, processes), free_bytes_min=GIB, **own)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "code"),
    [
        (ProcessState.READY, Exit.OK),
        (ProcessState.DEGRADED, Exit.OK),
        (ProcessState.DONE, Exit.OK),
        (ProcessState.NOT_READY, Exit.FAILED),
        (ProcessState.RESTARTING, Exit.FAILED),
        (ProcessState.STARTING, Exit.FAILED),
    ],
)
def test_the_exit_code_is_the_health(state: ProcessState, code: Exit) -> None:
    assert report(replace(WORKER, state=state)).exit_code == code


def test_a_stack_that_does_not_run_and_a_full_disk_are_not_healthy() -> None:
    assert report(WORKER, running=False).exit_code == Exit.UNREACHABLE
    full = report(WORKER, disks=(replace(DISK, free_bytes=GIB // 2),))
    assert full.exit_code == Exit.FAILED
    assert notes(full) == ["disk almost full: 512 MiB free below /data; free space, or see docs/runbook.md"]


def test_what_is_missing_is_named_and_why_a_process_ended() -> None:
    lacking = replace(WORKER, missing={"postgres": "no answer within 5 s"})
    dead = replace(WORKER, name="kafka-1", last_exit="exit 1", missing={"process": "the server does not answer"})
    assert notes(report(lacking, dead)) == [
        "worker-media lacks postgres: no answer within 5 s",
        "kafka-1: the server does not answer",
        "kafka-1 ended: exit 1",
    ]


def test_disk_backlog_and_dead_letters_have_a_line_each() -> None:
    hour_ago_us = time.time_ns() // 1000 - 3 * 3600 * 10**6
    shown = figures(
        report(
            disks=(DISK,),
            backlogs=Known([Backlog("edge.frames.v1", 12, hour_ago_us), Backlog("edge.cids.v1", 0, None)]),
            letters=Known({"waiting": 2, "refused_again": 1}),
        )
    )
    assert shown == [
        "disk: 5 GiB of 10 GiB free (kafka, postgres)",
        "backlog: 12 in edge.frames.v1, the oldest for 3 h",
        "dead letters: 1 refused again, 2 waiting",
    ]


def test_what_is_not_known_says_why() -> None:
    shown = figures(report(backlogs=Known(why="kafka does not answer"), letters=Known({})))
    assert shown == ["backlog: not known: kafka does not answer", "dead letters: none"]


def test_the_groups_whose_backlog_is_shown_are_those_of_the_workers() -> None:
    assert {group.name: group.kinds for group in (SMALL, LARGE)} == WORKER_GROUPS
