"""docker-compose.yml against the code: every variable, command, port and health check it names has to exist.

No container engine is needed. Where Docker's client brings the compose command, it reads the file as well.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import typer
import yaml

from headrace.cli.app import app
from headrace.cli.processes import parse_kinds
from headrace.gateway.auth.api_keys import parse
from headrace.gateway.uploads.inspection import CHILD_RSS_BYTES, CHILDREN, LARGE_CHILD_RSS_BYTES
from headrace.producers.clips import RING_BYTES_MAX
from headrace.producers.publisher import IN_FLIGHT_BYTES_MAX
from headrace.runtime.gateway_settings import checked_secret
from headrace.runtime.process import STOP_S_MAX
from headrace.runtime.settings import Settings
from headrace.schemas.events import Kind
from headrace.schemas.limits import FRAME_BYTES_MAX, INLINE_BYTES_MAX
from headrace.store.catalog.outbox import PENDING_BYTES_MAX
from headrace.streams.consumers.app import CONSUMERS
from headrace.streams.consumers.perception import LOOKS_BYTES_MAX
from headrace.streams.consumers.pictures import BODY_BYTES_AT_ONCE_MAX, DECODING_BYTES_AT_ONCE_MAX
from headrace.streams.worker.app import group_of
from tests.infra.compose.composition import FILE, OURS, ROOT, SERVICES, environment, settings_of

ENDING = {"init", "minio-volume", "store-users"}
LASTING = sorted(SERVICES.keys() - ENDING)
COMMANDS = typer.main.get_command(app)


def seconds(text: str) -> float:
    return float(re.fullmatch(r"(\d+)s", text)[1])


def listening() -> set[str]:
    """`service:port` of everything that the composition itself offers."""
    kafka = re.findall(r"INTERNAL://:(\d+)", environment("kafka")["KAFKA_LISTENERS"])
    return {f"kafka:{port}" for port in kafka} | {"minio:9000", "postgres:5432", "prometheus:9090", "redis:6379"}


def test_it_is_the_composition_that_the_issue_names() -> None:
    assert OURS == [
        "capture",
        "gateway",
        "init",
        "maintenance",
        "perception",
        "preprocessing",
        "relay",
        "worker-large",
        "worker-small",
    ]
    assert set(SERVICES) - set(OURS) == {
        "kafka",
        "postgres",
        "minio-volume",
        "minio",
        "store-users",
        "redis",
        "prometheus",
        "grafana",
    }


@pytest.mark.parametrize("name", OURS)
def test_every_variable_is_a_setting_with_a_value_that_it_takes(name: str) -> None:
    ours = {variable for variable in environment(name) if variable.startswith("HEADRACE_")}
    assert {variable.removeprefix("HEADRACE_").lower() for variable in ours} <= set(Settings.model_fields)
    assert settings_of(name).log_format == "json"
    # Beside settings there are only the allocator's own variables, which the C library reads.
    assert all(variable.startswith("MALLOC_") for variable in set(environment(name)) - ours)
    assert all(isinstance(value, str) for value in environment(name).values())


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_of_ours(name: str) -> None:
    words = SERVICES[name]["command"]
    command = COMMANDS.commands[words[0]]
    context = command.make_context(words[0], list(words[1:]))
    match words[0]:
        case "worker":
            group_of(parse_kinds(context.params["kinds"]))
        case "consumer":
            assert context.params["name"] in CONSUMERS


def test_the_workers_together_take_up_every_kind_once() -> None:
    taken = [
        kind for name in OURS if "--kinds" in (words := SERVICES[name]["command"]) for kind in parse_kinds(words[2])
    ]
    assert sorted(taken) == sorted(Kind)


def test_every_consumer_that_ships_is_run() -> None:
    run = {SERVICES[name]["command"][1] for name in OURS if SERVICES[name]["command"][0] == "consumer"}
    assert run == set(CONSUMERS)


@pytest.mark.parametrize("name", OURS)
def test_addresses_name_a_service_and_the_port_it_listens_on(name: str) -> None:
    settings = settings_of(name)
    dsn = urlsplit(settings.postgres_dsn.get_secret_value())
    postgres = environment("postgres")
    assert settings.kafka_bootstrap in listening()
    assert f"{dsn.hostname}:{dsn.port}" in listening()
    assert dsn.path == f"/{postgres['POSTGRES_DB']}"
    assert urlsplit(settings.store_endpoint).netloc in listening()
    if redis := settings.redis_url.get_secret_value():
        assert f"{urlsplit(redis).hostname}:{urlsplit(redis).port}" in listening()


@pytest.mark.parametrize("name", [name for name in OURS if name != "init"])
def test_the_health_check_asks_where_the_process_listens(name: str) -> None:
    settings, (*command, code) = settings_of(name), SERVICES[name]["healthcheck"]["test"]
    assert command == ["CMD", "python", "-c"]
    compile(code, "healthcheck", "exec")
    assert f"http://127.0.0.1:{settings.health_port}/livez" in code
    assert settings.health_host == "0.0.0.0"


@pytest.mark.parametrize("name", LASTING)
def test_whatever_lasts_is_watched_restarted_and_limited(name: str) -> None:
    service = SERVICES[name]
    health = service["healthcheck"]
    assert health["test"][0] in {"CMD", "CMD-SHELL"}
    assert seconds(health["timeout"]) <= seconds(health["interval"])
    assert service["restart"] == "unless-stopped"
    assert service["mem_limit"]
    assert service["cpus"]
    assert service["pids_limit"]


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_that_lasts_runs_as_root_or_can_become_it(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    if name == "minio-volume":
        # Root for one chown, without a network.
        assert (service["cap_add"], service["network_mode"], service["entrypoint"]) == (["CHOWN"], "none", ["chown"])
        return
    assert "cap_add" not in service
    if name not in OURS:  # those have their user from the Dockerfile
        assert service["user"].split(":")[0] not in {"root", "0"}
    assert service["read_only"] or name == "kafka"


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z/]+:(v?\d[\w.]*|RELEASE\.[\dTZ-]+)", image), image
    assert not image.startswith("bitnami/")


def test_no_secret_is_an_argument() -> None:
    for service in SERVICES.values():
        words = [*service.get("command", []), *service.get("entrypoint", []), *service["healthcheck"].get("test", [])]
        assert not any("$" in str(word) for word in words)


def test_ports_are_published_on_loopback_only_and_none_twice() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in published)
    assert len(published) == len(set(published))


@pytest.mark.parametrize("name", [name for name in OURS if name != "gateway"])
def test_our_services_can_be_scaled(name: str) -> None:
    assert not {"container_name", "ports", "hostname"} & SERVICES[name].keys()


def test_the_gateway_is_published_where_it_listens_and_asks_for_keys() -> None:
    settings = settings_of("gateway")
    ports = [settings.gateway_port, settings.gateway_ldo_port]
    assert SERVICES["gateway"]["ports"] == [f"127.0.0.1:{port}:{port}" for port in ports]
    assert (settings.gateway_host, settings.gateway_auth) == ("0.0.0.0", "on")


def test_the_first_key_is_one() -> None:
    parsed = parse(settings_of("init").gateway_admin_key.get_secret_value())
    assert parsed is not None
    assert parsed[0] == "admin"
    assert checked_secret(parsed[1])


def test_a_process_may_drain_before_it_is_killed() -> None:
    for name in OURS:
        assert STOP_S_MAX < seconds(SERVICES[name]["stop_grace_period"]) == 20  # as systemd and `headrace up`


def test_everything_that_is_named_elsewhere_in_the_file_exists() -> None:
    for service in SERVICES.values():
        for needed, condition in service.get("depends_on", {}).items():
            once = needed in ENDING
            assert condition == {"condition": "service_completed_successfully" if once else "service_healthy"}, needed
            assert needed in SERVICES
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in FILE["volumes"]
        for config in service.get("configs", []):
            assert config["source"] in FILE["configs"]


def test_data_is_on_named_volumes_where_the_images_keep_it() -> None:
    assert SERVICES["kafka"]["volumes"] == [f"kafka:{environment('kafka')['KAFKA_LOG_DIRS']}"]
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]  # since 18
    assert SERVICES["minio"]["volumes"] == [f"minio:{SERVICES['minio']['command'][1]}"]
    assert "--storage.tsdb.path=/prometheus" in SERVICES["prometheus"]["command"]
    assert "prometheus:/prometheus" in SERVICES["prometheus"]["volumes"]


MIB = 2**20
BASE_BYTES = 150 * MIB  # an interpreter with its libraries
DECODER_RSS_BYTES = 256 * MIB


def worst_case_bytes(name: str) -> int:
    """What a process may hold by its own limits when every one of them is used up."""
    settings, command = settings_of(name), SERVICES[name]["command"]
    match command:
        case ["worker", *_]:
            kinds = len(parse_kinds(command[2]))
            return BASE_BYTES + kinds * (settings.buffer_bytes_max + 2 * settings.in_flight_bytes_max)
        case ["consumer", consumer]:
            looks = LOOKS_BYTES_MAX if consumer == "perception" else 0
            return BASE_BYTES + BODY_BYTES_AT_ONCE_MAX + DECODING_BYTES_AT_ONCE_MAX + looks
        case ["gateway"]:
            # Uploads that are held, as long again in librdkafka's queue, and what each child may take of its own.
            children = LARGE_CHILD_RSS_BYTES + (CHILDREN - 1) * CHILD_RSS_BYTES + 2 * CHILDREN * FRAME_BYTES_MAX
            return BASE_BYTES + settings.gateway_buffer_bytes_max + IN_FLIGHT_BYTES_MAX + children
        case ["capture"]:
            # A full HD stream's decoder, a frame on its way, and the frames of a clip.
            stream = DECODER_RSS_BYTES + 2 * INLINE_BYTES_MAX + RING_BYTES_MAX
            return BASE_BYTES + IN_FLIGHT_BYTES_MAX + settings.capture_streams_max * stream
        case ["relay"]:
            # Rows as they come, as values, as messages, and in librdkafka's queue.
            return BASE_BYTES + 4 * PENDING_BYTES_MAX
        case _:
            return BASE_BYTES


@pytest.mark.parametrize("name", OURS)
def test_a_process_fits_into_its_memory_at_its_worst(name: str) -> None:
    number, unit = re.fullmatch(r"(\d+)([mg])", SERVICES[name]["mem_limit"]).groups()
    assert worst_case_bytes(name) <= int(number) * {"m": MIB, "g": 1024 * MIB}[unit]


def scrape_configs() -> list[dict[str, Any]]:
    return yaml.safe_load((ROOT / "infra/compose/prometheus.yml").read_text("utf-8"))["scrape_configs"]


def test_prometheus_asks_every_process_at_its_health_port() -> None:
    (job,) = scrape_configs()
    (discovery,) = job["dns_sd_configs"]
    assert sorted(discovery["names"]) == [name for name in OURS if name != "init"]
    assert {settings_of(name).health_port for name in OURS} == {discovery["port"]}
    assert job.get("metrics_path", "/metrics") == "/metrics"


def provisioned(kind: str) -> Iterator[dict[str, Any]]:
    for file in (ROOT / "infra/compose/grafana/provisioning" / kind).iterdir():
        yield yaml.safe_load(file.read_text("utf-8"))


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    (sources,) = provisioned("datasources")
    assert urlsplit(sources["datasources"][0]["url"]).netloc in listening()
    (providers,) = provisioned("dashboards")
    path = providers["providers"][0]["options"]["path"]
    assert f"./infra/compose/grafana/dashboards:{path}:ro" in SERVICES["grafana"]["volumes"]
    home = Path(environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (str(home.parent), (ROOT / "infra/compose/grafana/dashboards" / home.name).exists()) == (path, True)


def has_compose() -> bool:
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(
            ["docker", "compose", "version"], capture_output=True, check=False, timeout=20
        ).returncode
    )


@pytest.mark.skipif(not has_compose(), reason="no docker compose client on this machine; the file was read with PyYAML")
def test_docker_compose_reads_it(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("")
    read = subprocess.run(
        ["docker", "compose", "--env-file", str(tmp_path / "env"), "config", "--quiet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert read.returncode == 0, read.stderr
