"""Run the benchmarks in sequence, in a temporary stack of real servers."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.bench.backlog import Drained, drain, frames, ldos, publish, relay_alone
from headrace.bench.bodies import FRAME_BYTES
from headrace.bench.figures import Figure, Worked, beside, rate
from headrace.bench.live import FRAMES_PER_S, idle_share, live
from headrace.bench.peers import PUTS_AT_ONCE, inserts_per_s, puts_per_s, reads_per_s
from headrace.bench.processes import Bench
from headrace.bench.quix import PeerEnvironment, Pipeline, QuixFigures, Say, peer_environment
from headrace.bench.uploads import CLIENTS, uploads
from headrace.demo.report import percentile
from headrace.initialize import initialize
from headrace.native import Store, temporary_stack
from headrace.runtime.errors import Exit, HeadraceError
from headrace.runtime.stack_settings import settings_of_stack
from headrace.schemas.events import Kind
from headrace.schemas.topics import input_topic

FRAMES = 2000
LDOS_PER_FRAME = 10
SECONDS = 20.0
_PLAIN_PUTS = f"plain PUTs, {PUTS_AT_ONCE} at a time"
_QUIX = "Quix Streams, S3 only"
_WITH_PEERS = {"frames", "ldos"}
_CHECKPOINT_FRAMES = 160
_CHECKPOINT_LDOS = 4000
_CHECKPOINTS_MIN = 5  # the first does not count
_PACK_LDOS = 1000


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """The store, the number of frames (and ten times as many LDOs), the seconds of what is live, and flame graphs."""

    store: Store
    frames: int = FRAMES
    seconds: float = SECONDS
    profiles: Path | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """A run of the benchmarks."""

    bench: Bench
    options: BenchOptions
    peers: PeerEnvironment | None
    say: Say

    @property
    def ldos(self) -> int:
        """The number of LDOs in a backlog."""
        return self.options.frames * LDOS_PER_FRAME


def run(cases: list[str], options: BenchOptions, say: Say) -> tuple[list[Figure], dict[str, Any]]:
    """Run the benchmarks; returns the figures and the machine: cores, load average before the run, store.

    Raises:
        HeadraceError: a server did not start, or a process ended.
    """
    machine: dict[str, Any] = {
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "store": options.store,
        "profiled": options.profiles is not None,
    }
    peers = _peers(cases, options, say)
    figures: list[Figure] = []
    with _bench(options, peers, say) as bench:
        for case in cases:
            figures += CASES[case](Run(replace(bench, case=case), options, peers, say))
    return figures, machine


def _peers(cases: list[str], options: BenchOptions, say: Say) -> PeerEnvironment | None:
    """Return the peers' environment where it is needed; flame graphs cannot do without it, figures can."""
    if options.profiles is not None:
        if (peers := peer_environment(say)) is None:
            raise HeadraceError("profile_unavailable", "flame graphs need a checkout of Headrace", exit_code=Exit.USAGE)
        return peers
    if options.store != "minio" or not _WITH_PEERS & set(cases):
        return None
    try:
        return peer_environment(say)
    except HeadraceError as error:
        say(str(error))
        return None


def _frames(run: Run) -> list[Figure]:
    bench, count = run.bench, run.options.frames
    puts = _puts(run)
    all_distinct = _drained(run, Kind.FRAME, publish(bench.settings, frames(count)))
    quix = _quix(
        run,
        Pipeline(
            input_topic(Kind.FRAME).name, count, pack=1, checkpoint=min(_CHECKPOINT_FRAMES, count // _CHECKPOINTS_MIN)
        ),
    )
    half = _drained(run, Kind.FRAME, publish(bench.settings, frames(count, distinct_share=0.5)))
    through = all_distinct.committed.through_per_s
    whole = Figure("frames_per_s", "frames of 200 KB, all distinct", through, "/s")
    repeated = Figure("frames_half_per_s", "frames, half of them duplicates", half.committed.through_per_s, "/s")
    return [
        beside(whole, _PLAIN_PUTS, puts),
        *_beside_quix(whole, quix),
        beside(repeated, "all distinct", through),
        Figure("frames_batch", "frames in one transaction, on average", all_distinct.committed.batch_rows),
        Figure("frames_mb_per_s", "frames in bytes", through * FRAME_BYTES / 1e6, "MB/s"),
        *_usage("frames", "frame", all_distinct),
    ]


def _ldos(run: Run) -> list[Figure]:
    bench, count, topic = run.bench, run.ldos, input_topic(Kind.LDO).name
    drained = _drained(run, Kind.LDO, publish(bench.settings, ldos(count)))
    quix = _quix(
        run, Pipeline(topic, count, pack=_PACK_LDOS, checkpoint=min(_CHECKPOINT_LDOS, count // _CHECKPOINTS_MIN))
    )
    committed = drained.committed
    run.say("ldos: inserting the same rows with COPY, and reading the same topic with librdkafka")
    inserts = inserts_per_s(bench.settings, topic, drained.since, batch_rows=max(1, round(committed.batch_rows)))
    reads = reads_per_s(bench.settings, topic, count)
    whole = Figure("ldos_per_s", "LDOs of 2 KB, announced", committed.through_per_s, "/s")
    return [
        beside(whole, _QUIX, quix.per_s) if quix else whole,
        beside(replace(whole, name="ldos_to_inserts"), "plain inserts of the same rows", inserts),
        beside(replace(whole, name="ldos_to_reads"), "librdkafka's plain reads", reads),
        Figure("ldos_stored_per_s", "LDOs until the last commit", committed.per_s, "/s"),
        Figure("ldos_batch", "LDOs in one transaction, on average", committed.batch_rows),
        *([Figure("quix_ldos_cpu_ms", f"{_QUIX}: CPU per LDO", quix.worked.cpu_ms_each, "ms")] if quix else []),
        *_usage("ldos", "LDO", drained),
    ]


def _relay(run: Run) -> list[Figure]:
    published = publish(run.bench.settings, ldos(run.ldos))
    run.say(f"relay: {published} LDOs published; recording them before the relay starts")
    per_s, worked = relay_alone(run.bench, Kind.LDO, published)
    return [
        Figure("relay_per_s", "announcements of a waiting relay", per_s, "/s"),
        Figure("relay_cpu_ms", "relay CPU per announcement", worked.cpu_ms_each, "ms"),
    ]


def _latency(run: Run) -> list[Figure]:
    run.say(f"latency: {FRAMES_PER_S} frames a second for {run.options.seconds:.0f} s")
    latencies = live(run.bench, run.options.seconds)
    what = f"published → announced, {FRAMES_PER_S} frames/s"
    return [
        Figure(f"latency_ms_p{name}", f"{what}, p{name}", percentile(latencies, share) or 0.0, "ms")
        for name, share in (("50", 0.5), ("99", 0.99))
    ]


def _gateway(run: Run) -> list[Figure]:
    puts = _puts(run)
    run.say(f"gateway: {CLIENTS} clients upload files of 200 KB for {run.options.seconds:.0f} s")
    figures = uploads(run.bench, run.options.seconds)
    if figures.failed:
        raise HeadraceError("bench_failed", f"{figures.failed} uploads were not ingested")
    per_s = rate(len(figures.answers_s), figures.seconds)
    times_ms = sorted(answer_s * 1000 for answer_s in figures.answers_s)
    return [
        beside(
            Figure("gateway_per_s", f"uploads of 200 KB, {CLIENTS} clients, durable", per_s, "/s"), _PLAIN_PUTS, puts
        ),
        Figure("gateway_ms_p50", "from sending to `ingested`, p50", percentile(times_ms, 0.5) or 0.0, "ms"),
        Figure("gateway_ms_p99", "from sending to `ingested`, p99", percentile(times_ms, 0.99) or 0.0, "ms"),
    ]


def _idle(run: Run) -> list[Figure]:
    run.say(f"idle: a worker without messages for {run.options.seconds:.0f} s")
    share = idle_share(run.bench, run.options.seconds)
    return [Figure("idle_percent", "an idle worker's share of a core", share * 100, "%")]


CASES: dict[str, Callable[[Run], list[Figure]]] = {
    "frames": _frames,
    "ldos": _ldos,
    "relay": _relay,
    "latency": _latency,
    "gateway": _gateway,
    "idle": _idle,
}


def _usage(name: str, event: str, drained: Drained) -> list[Figure]:
    worker = drained.worker
    servers: dict[str, Worked] = {server: worked for server, worked in drained.servers.items() if worked.cpu_s > 0}
    return [
        Figure(f"{name}_cpu_ms", f"worker CPU per {event}", worker.cpu_ms_each, "ms"),
        *(
            Figure(f"{name}_{server}_cpu_ms", f"{server} CPU per {event}", worked.cpu_ms_each, "ms")
            for server, worked in servers.items()
        ),
        Figure(f"{name}_rss_mb", f"worker memory at its largest, {event}s", worker.rss_bytes_max / 1e6, "MB"),
    ]


def _beside_quix(whole: Figure, quix: QuixFigures | None) -> list[Figure]:
    if quix is None:
        return []
    return [
        beside(replace(whole, name="frames_to_quix"), _QUIX, quix.per_s),
        Figure("quix_frames_cpu_ms", f"{_QUIX}: CPU per frame", quix.worked.cpu_ms_each, "ms"),
    ]


def _puts(run: Run) -> float:
    run.say(f"{run.bench.case}: writing bodies of the same size directly to the store")
    return puts_per_s(run.bench.settings, min(run.options.frames, 1000))


def _quix(run: Run, pipeline: Pipeline) -> QuixFigures | None:
    if run.peers is None or run.options.store != "minio":
        run.say(f"{run.bench.case}: {_QUIX}, is not measured: it needs a checkout, its packages, and MinIO")
        return None
    run.say(f"{run.bench.case}: {_QUIX}, on the same messages")
    return run.peers.quix(run.bench, pipeline)


def _drained(run: Run, kind: Kind, count: int) -> Drained:
    run.say(f"{kind}s: {count} published; starting a worker and the relay")
    drained = drain(run.bench, kind, count)
    took_s = max(drained.committed.last_s, drained.committed.announced_last_s) - drained.committed.first_s
    run.say(f"{kind}s: {drained.committed.rows} recorded, {drained.committed.announced} announced in {took_s:.1f} s")
    return drained


@contextmanager
def _bench(options: BenchOptions, peers: PeerEnvironment | None, say: Say) -> Iterator[Bench]:
    profiler = peers.profiler(options.profiles) if peers and options.profiles else None
    with (
        tempfile.TemporaryDirectory(prefix="headrace-bench-") as folder,
        temporary_stack(options.store, services=(), progress=say) as info,
    ):
        settings = settings_of_stack(info.env())
        initialize(settings)
        yield Bench(info, settings, Path(folder), profiler=profiler)
