"""The wildfire platform's import through real Kafka, for both generations of its API, with faults and a kill.

A run is killed in the middle; the next one meets all that does not pass, the one after it all that does. What stands
there in the end is compared with what a run that met nothing leaves between two other servers.
"""

import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from headrace.batch.platform.boxes import Generation
from headrace.initialize import initialize
from headrace.native import temporary_stack
from headrace.runtime.settings import Settings
from tests.batch.platform.alert_server import DAYS, FIRST_DAY, PlatformServer
from tests.batch.platform.annotation_server import AnnotationServer
from tests.batch.platform.api_server import Fault, served
from tests.processes import ServiceProcess
from tests.proofs.commands import Commands, announced, connected
from tests.servers import settings_of
from tests.waiting import until

COUNT = 30
_ARRIVED_S_MAX = 60.0
_FIRST, _SECOND, _LAST = (str((FIRST_DAY + timedelta(days=number)).date()) for number in range(DAYS))
_OF_A_DAY = COUNT // DAYS
_LOGINS = {
    "PLATFORM_LOGIN": "reader",
    "PLATFORM_PASSWORD": "reader-secret",
    "PLATFORM_ADMIN_LOGIN": "boss",
    "PLATFORM_ADMIN_PASSWORD": "boss-secret",
    "HEADRACE_URL_NETWORKS": "127.0.0.0/8",  # where the tests' platform keeps its pictures
}
_METADATA = "http://169.254.169.254/latest/meta-data"
_PASSING = [
    Fault("GET /sequences/all", 502),
    Fault("GET /sequences/", 503, 3, after=5),
    Fault("GET /bucket", 504, 2, 7),
    # Of two pictures the address has ended once: what is asked for again at once is there.
    Fault("GET /bucket/121", 403),
    Fault("GET /bucket/190", 403),
    Fault("GET /sequences/", 401, 1, after=9),
    Fault("POST /login", 502),
    Fault("GET /organizations", "lost"),
]
_PASSING_THERE = [
    Fault("POST /auth", 503),
    Fault("POST /sequences", "lost", 2, after=3),
    Fault("GET /annotations", 502, 2, after=2),
    Fault("POST /detections", "lost", 3, after=10),
    Fault("POST /detections", 401, 1, after=20),
    Fault("POST /annotations", "lost", 2, after=5),
    Fault("POST /annotations", 504, 2, after=9),
]


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Import all sequences from each generation, and return what did not hold."""
    if count != COUNT:
        return [f"the servers have {COUNT} sequences, not {count}"]
    return [wrong for generation in Generation for wrong in _prove(generation, say)]


@dataclass
class _Proof:
    """The servers of one generation, the command between them, and what did not hold."""

    generation: Generation
    say: Callable[[str], None]
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.platform, self.annotation = PlatformServer(self.generation, COUNT), AnnotationServer(self.generation)
        self.clean = PlatformServer(self.generation, COUNT), AnnotationServer(self.generation)

    def holds(self, is_so: bool, what: str) -> None:
        if not is_so:
            self.wrong.append(f"{self.generation.name}: {what}")


def _prove(generation: Generation, say: Callable[[str], None]) -> list[str]:
    proof = _Proof(generation, say)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(served(proof.platform, proof.annotation, *proof.clean))
        settings = settings_of(stack.enter_context(temporary_stack("minio", progress=say)))
        initialize(settings)
        for name, *args in (("worker", "--kinds", "frames,clips"), ("relay",)):
            process = ServiceProcess(settings, name, *args, log=directory / f"{name}.log")
            stack.callback(process.stop)
            process.wait_ready()
        commands = Commands(settings, **_LOGINS)
        _faults(proof, commands)
        _same(proof, commands)
        detections = {row["id"] for rows in proof.platform.detections.values() for row in rows}
        _arrived(settings, len(detections))
        process.stop()  # the relay: another one takes over and finds nothing to announce again
        times = announced(settings, commands, "ingested.frames.v1", directory)
        say(f"{generation.name}: {len(detections)} frames, {len(times)} announced, {times.total()} times in all")
        proof.holds(times == Counter(dict.fromkeys(times, 1)), "a frame is announced more than once")
        proof.holds(len(times) == len(detections), "not each frame is announced")
    return proof.wrong


def _faults(proof: _Proof, commands: Commands) -> None:
    """Kill one run, let one meet what lasts, and one what passes."""
    platform, annotation = proof.platform, proof.annotation
    command = _command(platform, annotation)
    platform.picture_s = 0.1  # so that sequences are long enough in the middle to be met there

    def is_in_the_middle() -> bool:
        return len(annotation.detections) >= COUNT and len(annotation.annotations) < len(annotation.sequences)

    commands.kill(*command, when=is_in_the_middle)
    platform.picture_s = 0.0
    begun, whole = len(annotation.sequences), len(annotation.annotations)
    proof.say(f"{proof.generation.name}: killed with {begun} sequences begun there, {whole} of them whole")
    proof.holds(whole < begun < COUNT, "the kill met no sequence in the middle")

    # Nothing that is imported is read again, so only the last two days meet anything.
    last = [row["id"] for row in platform.sequences if str(row["started_at"]).startswith(_LAST)]
    platform.faults = [
        Fault(f"GET /sequences/{last[0]}/", 500),
        Fault(f"GET /sequences/{last[1]}/", "html"),
        Fault(f"GET /sequences/{last[2]}/", "redirect"),
        Fault(f"GET /sequences/{last[3]}/", "endless"),
        Fault(f"GET /sequences/{last[4]}/", "cut"),
        Fault(f"GET /bucket/{last[5]}0", 500),
        Fault(f"GET /bucket/{last[6]}0", "html"),
        Fault(f"GET /sequences/all/fromdate?{_SECOND}", 500),
    ]
    platform.addresses = {last[7] * 10: _METADATA}
    annotation.faults = []
    before = len(annotation.annotations)
    printed, talk = commands.both(*command, code=1)
    created = len(annotation.annotations) - before
    proof.say(f"{proof.generation.name}, with what lasts:\n{printed.rstrip()}")
    output = _statistics(total=COUNT - _OF_A_DAY, failed=8, created=created)
    proof.holds(printed == output, "a run that met what lasts does not print what is documented")
    proof.holds(f"{_SECOND}: not complete" in talk, "a day whose list was not read is called complete")
    proof.holds(f"{_LAST}: {_OF_A_DAY} fetched = 2 imported, 0 skipped, 8 failed: not complete" in talk, talk[-900:])
    proof.holds("169.254.169.254" in talk, "the picture that is not read is not named")
    platform.faults, platform.addresses = [replace(item) for item in _PASSING], {}
    annotation.faults = [replace(item) for item in _PASSING_THERE]
    before = len(annotation.annotations)
    printed = commands.text(*command)
    proof.say(f"{proof.generation.name}, with what passes:\n{printed.rstrip()}")
    created = len(annotation.annotations) - before
    proof.holds(printed == _statistics(created=created), "the last run does not print what is documented")
    proof.holds(len(annotation.annotations) == COUNT, "not each sequence has one annotation")
    left = [item for item in (*platform.faults, *annotation.faults) if item.times]
    proof.holds(not left, f"not every fault was met: {left}")


def _same(proof: _Proof, commands: Commands) -> None:
    """Run again, which changes nothing, and once between servers that had no faults, which leaves the same."""
    content, changes = proof.annotation.content(), proof.annotation.changes
    printed = commands.text(*_command(proof.platform, proof.annotation))
    proof.say(f"{proof.generation.name}, again:\n{printed.rstrip()}")
    proof.holds(printed == _statistics(created=0), "another run does not print what is documented")
    proof.holds((proof.annotation.content(), proof.annotation.changes) == (content, changes), "it changed something")
    printed = commands.text(*_command(*proof.clean))
    proof.holds(printed == _statistics(created=COUNT), "a run without faults does not print what is documented")
    proof.holds(proof.clean[1].content() == content, "the state is not that of a run without faults")


def _arrived(settings: Settings, number: int) -> None:
    with connected(settings) as sql:

        def is_so() -> bool:
            row = sql.execute("select count(*) from records").fetchone()
            return row is not None and row[0] == number

        until(is_so, _ARRIVED_S_MAX, "every frame to be in the catalog")


def _command(platform: PlatformServer, annotation: AnnotationServer) -> tuple[str, ...]:
    return (
        "import-platform",
        "--date-from",
        _FIRST,
        "--date-end",
        _LAST,
        "--url-api-platform",
        platform.url,
        "--url-api-annotation",
        annotation.url,
        "--loglevel",
        "error",
    )


def _statistics(*, total: int = COUNT, failed: int = 0, created: int) -> str:
    return (
        f"Processing completed!\nFinal Statistics:\n  Total sequences: {total}\n"
        f"  Successful sequences: {total - failed}\n  Failed sequences: {failed}\n  Annotations created: {created}\n"
    )
