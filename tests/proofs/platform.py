"""The wildfire platform's import through real Kafka, for both generations of its API, with faults and a kill."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

from batch.platform.clusters import Generation
from headrace.initialize import initialize
from infra.native import temporary_stack
from tests.batch.platform_servers import (
    DAYS,
    FIRST_DAY,
    SEQUENCES,
    AnnotationServer,
    Fault,
    PlatformServer,
    served,
)
from tests.conftest import ServiceProcess, settings_of, until
from tests.proofs.commands import Commands, announced, connected

COUNT = SEQUENCES
_ARRIVED_S_MAX = 60.0
_LOGINS = {
    "PLATFORM_LOGIN": "reader",
    "PLATFORM_PASSWORD": "reader-secret",
    "PLATFORM_ADMIN_LOGIN": "boss",
    "PLATFORM_ADMIN_PASSWORD": "boss-secret",
    "HEADRACE_URL_NETWORKS": "127.0.0.0/8",  # where the tests' platform keeps its pictures
}


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Import all sequences from each generation with a kill, and return what did not hold."""
    if count != COUNT:
        return [f"the servers have {COUNT} sequences, not {count}"]
    return [wrong for generation in Generation for wrong in _prove(generation, say)]


def _prove(generation: Generation, say: Callable[[str], None]) -> list[str]:
    wrong: list[str] = []
    platform, annotation = PlatformServer(generation), AnnotationServer(generation)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(served(platform, annotation))
        settings = settings_of(stack.enter_context(temporary_stack("minio", progress=say)))
        initialize(settings)
        worker = ServiceProcess(settings, "worker", "--kinds", "frames,clips", log=directory / "worker.log")
        stack.callback(worker.stop)
        worker.wait_ready()
        sql = stack.enter_context(connected(settings))
        commands = Commands(settings, **_LOGINS)
        command = (
            "import-platform", "--date-from", str(FIRST_DAY.date()), "--date-end",
            str((FIRST_DAY + timedelta(days=DAYS - 1)).date()), "--url-api-platform", platform.url,
            "--url-api-annotation", annotation.url, "--loglevel", "error",
        )  # fmt: skip
        platform.faults, annotation.faults = _faults()
        commands.kill(*command, when=lambda: annotation.number_of("POST /detections") >= SEQUENCES)
        say(f"{generation.name}: killed with {len(annotation.content())} sequences begun there")
        say(commands.text(*command).rstrip())
        content, changes = annotation.content(), annotation.changes
        again = commands.text(*command)
        say(again.rstrip())
        if again != _statistics(created=0):
            wrong.append("the second run does not print what is documented")
        if (annotation.content(), annotation.changes) != (content, changes):
            wrong.append("the second run changed something")
        detections = {one["id"] for rows in platform.detections.values() for one in rows}
        if {one for found, _ in content.values() for one in found} != detections:
            wrong.append("not every detection is there")

        def arrived() -> bool:
            row = sql.execute("select count(*) from records").fetchone()
            return row is not None and row[0] == len(detections)

        until(arrived, _ARRIVED_S_MAX, "every frame to be in the catalog")
        times = announced(settings, commands, "ingested.frames.v1", directory)
        say(f"{generation.name}: {len(detections)} frames; {len(times)} announced, {times.total()} times in all")
        if (len(times), times.total()) != (len(detections), len(detections)):
            wrong.append("not each frame is announced exactly once")
    return [f"{generation.name}: {one}" for one in wrong]


def _faults() -> tuple[list[Fault], list[Fault]]:
    """What passes: errors of proxies, connections that are lost after the work was done, logins and keys that end."""
    return [
        Fault("GET /sequences/all", 502), Fault("GET /sequences/", 503, 3, after=5), Fault("GET /bucket", 504, 2, 7),
        Fault("GET /bucket", 403, 2, after=20), Fault("GET /sequences/", 401, 1, after=9),
    ], [
        Fault("POST /auth", 503), Fault("POST /sequences", "lost", 2, after=3),
        Fault("POST /detections", "lost", 3, after=10),
        Fault("POST /detections", 401, 1, after=30), Fault("POST /annotations", "lost", 2, after=5),
        Fault("POST /annotations", 504, 2, after=9),
    ]  # fmt: skip


def _statistics(*, created: int) -> str:
    return (
        f"Processing completed!\nFinal Statistics:\n  Total sequences: {SEQUENCES}\n"
        f"  Successful sequences: {SEQUENCES}\n  Failed sequences: 0\n  Annotations created: {created}\n"
    )
