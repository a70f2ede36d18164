"""Two sites and a centre of three brokers: links cut for long, the mirror killed, a broker killed; then every message.

Each round cuts the link of one site for 30 to 60 s, and kills the mirror or MirrorMaker in the middle of it. Half-way a
broker of the centre is killed. The last line printed is the evidence as one JSON object.
"""

import json
import signal
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

from headrace.native import kill, temporary_stack
from headrace.runtime.kafka import ensure_topics, reach_kafka
from tests.faults import toxiproxy, versions
from tests.faults.experiments.mirror import SITES, TOPIC, Publishing, judge, site_behind, topology_of
from tests.processes import ServiceProcess
from tests.sites.site_world import at, mirror_maker_of, read_all
from tests.waiting import until

COUNT = 20_000
"""Messages of each site."""

ROUNDS = 10
_CUT_S = (30.0, 60.0)
_WORKING_S = 8.0
_SEED = 20261201
_SAMPLE_S = 1.0
_STARTS_S_MAX = 240.0


def prove(count: int, say: Callable[[str], None]) -> list[str]:
    """Publish so many messages at each site during the faults; return what did not hold."""
    random, faults, began = Random(_SEED), Counter[str](), time.monotonic()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-sites-")))
        proxies = stack.enter_context(toxiproxy.opened())
        sites = {name: site_behind(stack, proxies, name) for name in SITES}
        centre = stack.enter_context(temporary_stack("local", 3, progress=say))
        for bootstrap, replicas in (*((site.bootstrap, 1) for site, _ in sites.values()), (centre.kafka, 3)):
            settings = at(bootstrap, kafka_replicas=replicas)
            ensure_topics(settings, reach_kafka(settings))
        file = topology_of(directory, sites, centre.kafka, replicas=3)
        mirror = ServiceProcess(
            at(centre.kafka, sites_file=file, state_dir=directory), "mirror", log=directory / "mirror.log"
        )
        stack.callback(mirror.stop)
        until(lambda: mirror.is_alive() and mirror.get("/readyz")[0] == 200, _STARTS_S_MAX, "the mirror to be ready")
        cuts = [random.uniform(*_CUT_S) for _ in range(ROUNDS)]
        seconds = sum(cuts) + ROUNDS * _WORKING_S
        publishing = [
            Publishing(name, site.bootstrap, count=count, seconds=seconds) for name, (site, _) in sites.items()
        ]
        lag = Lag(mirror)
        lag.start()
        for thread in publishing:
            thread.start()
        for index, cut_s in enumerate(cuts):
            time.sleep(_WORKING_S)
            site = SITES[index % len(SITES)]
            say(f"round {index + 1}: {site} cut off for {cut_s:.0f} s")
            with proxies.black_hole(site) if index % 3 == 2 else proxies.cut_off(site):
                faults["link cut"] += 1
                ends_at = time.monotonic() + cut_s
                if index == ROUNDS // 2:
                    kill(centre.state_dir, f"kafka-{random.randint(1, 3)}")
                    faults["SIGKILL broker of 3"] += 1
                time.sleep(cut_s / 4)
                faults[_kill(mirror, directory, of_java=index % 2 == 1)] += 1
                time.sleep(max(ends_at - time.monotonic(), 0))
        for thread in publishing:
            thread.join()
        caught_up_from = time.monotonic()
        wrong = [
            text
            for name, (site, _) in sites.items()
            if (text := _said(judge, name, site.bootstrap, centre.kafka, mirror))
        ]
        caught_up_s = time.monotonic() - caught_up_from
        lag.stop()
        acknowledged = {thread.name: thread.acknowledged for thread in publishing}
        copied = {name: len(read_all(centre.kafka, f"{name}.{TOPIC}")) for name in SITES}
    evidence = {
        "proof": "sites",
        "versions": versions.versions(),
        "seed": _SEED,
        "faults": dict(faults),
        "cut_s": [round(cut_s) for cut_s in cuts],
        "acknowledged": acknowledged,
        "copied": copied,
        "lag_messages_max": lag.most,
        "lag_seconds_max": round(lag.oldest_s, 1),
        "messages_per_s_while_catching_up": round(lag.fastest),
        "whole_s_after_the_last_message": round(caught_up_s, 1),
        "seconds": round(time.monotonic() - began),
        "wrong": wrong,
    }
    say(json.dumps(evidence))
    return wrong


def _said(check: Callable[..., None], *args: Any) -> str:
    try:
        check(*args)
    except AssertionError as error:
        return str(error)
    return ""


def _kill(mirror: ServiceProcess, directory: Path, *, of_java: bool) -> str:
    """Kill the mirror or its MirrorMaker, start it again, and return what was killed."""
    if of_java:
        until(lambda: mirror_maker_of(directory), _STARTS_S_MAX, "MirrorMaker to run")
        maker = mirror_maker_of(directory)
        assert maker is not None
        maker.send_signal(signal.SIGKILL)
        assert mirror.process.wait(_STARTS_S_MAX) != 0
    else:
        mirror.kill()
    mirror.start_again()
    return f"SIGKILL {'MirrorMaker' if of_java else 'mirror'}"


class Lag(Thread):
    """Samples the metrics of a mirror: the most that waited, for how long, and how fast it was copied."""

    def __init__(self, mirror: ServiceProcess) -> None:
        super().__init__(daemon=True)
        self.most = 0
        self.oldest_s = 0.0
        self.fastest = 0.0
        self._mirror = mirror
        self._stopped = Event()

    def run(self) -> None:
        before: dict[str, tuple[float, float]] = {}
        while not self._stopped.wait(_SAMPLE_S):
            for name, value in self._metrics().items():
                if name.startswith("headrace_mirror_lag_seconds{"):
                    self.oldest_s = max(self.oldest_s, value)
                if not name.startswith("headrace_mirror_lag_messages{"):
                    continue
                self.most = max(self.most, int(value))
                now = time.monotonic()
                at_s, waited = before.get(name, (now, value))
                if value != waited:
                    self.fastest = max(self.fastest, (waited - value) / (now - at_s))
                    before[name] = (now, value)
                before.setdefault(name, (now, value))

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def _metrics(self) -> dict[str, float]:
        with suppress(OSError, ValueError):
            with urllib.request.urlopen(f"http://127.0.0.1:{self._mirror.port}/metrics", timeout=3) as answer:
                lines = answer.read().decode().splitlines()
            return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[:1] != "#"}
        return {}
