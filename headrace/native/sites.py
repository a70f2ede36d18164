"""Further sites of a stack: a Kafka each, with its topics, and the mirror that copies them into the stack's own.

A site's Kafka keeps its data in a state directory of its own below that of the stack. The sites forward what is
published there and ingest nothing, so they need no other server.
"""

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from headrace.native import kafka
from headrace.native.checks import http_answers
from headrace.native.config import LOOPBACK, SiteSpec, StackConfig, broker_name
from headrace.native.layout import StateDir, write_private
from headrace.native.process import ProcessSpec, RestartPolicy
from headrace.runtime.errors import Exit, HeadraceError
from headrace.schemas.topics import SITE_NAME

MIRROR = "mirror"
HEAP = "384m"
"""Of a site's broker: it holds what is published there and one consumer."""

_STOP_S_MAX = 20.0
_SITES_MIN = 2


def check_names(names: Sequence[str]) -> None:
    """Check the names of sites before anything starts.

    Raises HeadraceError when there are fewer than two, two are equal, or one cannot stand before a topic's name.
    """
    wrong = [name for name in names if not re.fullmatch(SITE_NAME, name)]
    if wrong or len(names) < _SITES_MIN or len(set(names)) < len(names):
        raise HeadraceError(
            "sites_invalid",
            f"{wrong[0]!r} is no name of a site: lower-case letters, digits and dashes"
            if wrong
            else "a stack of sites needs two or more different names",
            hint="for example --sites factory-a,factory-b,central; the others are mirrored to the last one",
            exit_code=Exit.USAGE,
        )


def port_names(names: Sequence[str]) -> list[str]:
    """Return the name of every port that sites need in addition; the last one is the stack itself."""
    if not names:
        return []
    kafkas = [_process(name) for name in names[:-1]]
    return [*kafkas, *(f"{name}-controller" for name in kafkas), MIRROR]


def bootstraps(config: StackConfig) -> dict[str, str]:
    """Return the addresses of the Kafka of each further site."""
    return {site.name: f"{LOOPBACK}:{config.ports[_process(site.name)]}" for site in config.sites}


def prepare(config: StackConfig, state: StateDir, progress: Callable[[str], None]) -> None:
    """Format the storage of each site, and write the file of sites; may be repeated."""
    for site in config.sites:
        home = _state(state, site)
        home.create()
        kafka.format_storage(_config(config, site), home, progress)
    if config.sites:
        write_private(sites_file(state), _topology(config).encode())


def sites_file(state: StateDir) -> Path:
    """Return the path of the file of sites."""
    return state.root / "sites.toml"


def processes(config: StackConfig, state: StateDir, servers: tuple[str, ...]) -> tuple[ProcessSpec, ...]:
    """Return each site's broker, the step that makes its topics, and the mirror, which depends on them."""
    if not config.sites:
        return ()
    steps: list[ProcessSpec] = []
    for site in config.sites:
        name = _process(site.name)
        spec = kafka.broker(_config(config, site), _state(state, site), 1, heap=HEAP)
        steps += [replace(spec, name=name, log=state.log(name)), _topics(config, state, site)]
    made = tuple(step.name for step in steps if step.restart is RestartPolicy.ON_FAILURE)
    port = config.ports[MIRROR]
    mirror = ProcessSpec(
        name=MIRROR,
        argv=_headrace(MIRROR),
        env={
            "HEADRACE_SITES_FILE": str(sites_file(state)),
            "HEADRACE_STATE_DIR": str(state.root),
            "HEADRACE_HEALTH_PORT": str(port),
            "HEADRACE_LOG_FORMAT": "json",
        },
        cwd=Path.cwd(),
        log=state.log(MIRROR),
        address=f"{LOOPBACK}:{port}",
        ready=http_answers(port, "/readyz"),
        depends_on=(*servers, *made),
        stop_s_max=_STOP_S_MAX,
    )
    return (*steps, mirror)


def _topics(config: StackConfig, state: StateDir, site: SiteSpec) -> ProcessSpec:
    name = f"{site.name}-topics"
    return ProcessSpec(
        name=name,
        argv=_headrace("init", "--topics"),
        env={"HEADRACE_KAFKA_BOOTSTRAP": bootstraps(config)[site.name], "HEADRACE_KAFKA_REPLICAS": "1"},
        cwd=Path.cwd(),
        log=state.log(name),
        depends_on=(_process(site.name),),
        restart=RestartPolicy.ON_FAILURE,
    )


def _topology(config: StackConfig) -> str:
    addresses = {**bootstraps(config), config.centre: kafka.bootstrap(config)}
    tables = [f'[sites.{name}]\nbootstrap = "{address}"\n' for name, address in addresses.items()]
    tables[-1] += f"replicas = {config.brokers}\n"
    flows = [f'[[flows]]\nfrom = "{site.name}"\nto = "{config.centre}"\n' for site in config.sites]
    return "\n".join([*tables, *flows])


def _config(config: StackConfig, site: SiteSpec) -> StackConfig:
    """Return the configuration of a site's Kafka, as that of a stack which has nothing else."""
    name, node = _process(site.name), broker_name(1)
    ports = {node: config.ports[name], f"{node}-controller": config.ports[f"{name}-controller"]}
    return replace(config, cluster_id=site.cluster_id, brokers=1, services=(), ports=ports, sites=(), centre="")


def _state(state: StateDir, site: SiteSpec) -> StateDir:
    return StateDir.at(state.root / "sites" / site.name)


def _process(site: str) -> str:
    return f"{site}-kafka"


def _headrace(*args: str) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "headrace", *args)
